"""`workshop fit`, `validate` and `test`: LightningCLI over our recipes.

A recipe is a YAML file with the keys `family` (which model), `model` (its config), `optim`, `data`
and `trainer`, and for tokenizers `gan` (a discriminator; none by default); any of them can be
overridden: `workshop fit -c tokenizer/tiny --model.dim 96`. `workshop fit RUN` goes on with a run.
"""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import yaml

from workshop_lib.errors import WorkshopError
from workshop_lib.models.families import model_classes
from workshop_lib.training import cluster
from workshop_lib.training.kinds import settle_kinds
from workshop_lib.training.recipe_cli import RecipeCLI
from workshop_lib.training.recipes import expand, read_recipe
from workshop_lib.training.stopping import NOT_FINISHED, StoppedError


def run(verb: str, arguments: list[str]) -> int:
    """Runs `fit`, `validate` or `test` with the arguments of the command line.

    Returns 0, or NOT_FINISHED (75) for a run that was stopped from outside and has saved itself.
    """
    typed, (arguments, place, RecipeCLI.folder) = arguments, expand(verb, arguments)
    content = read_recipe(Path(arguments[place]))
    if not cluster.started_by_torchrun() and not {"-h", "--help", "--print_config"} & set(typed):
        machines, processes = cluster.layout_asked(arguments, content)
        if machines * processes > 1:
            return cluster.launch(verb, typed, machines, processes)
    arguments[place] = _settle(Path(arguments[place]), content, arguments)
    _be_quiet()
    status, before, sys.argv = 0, sys.argv, [sys.argv[0], verb, *arguments]
    try:
        cluster.join()
        RecipeCLI()
    except StoppedError as stop:
        if cluster.place()[0] == 0:
            print(f"{stop}; `workshop fit {RecipeCLI.folder}` goes on", file=sys.stderr)
        status = NOT_FINISHED
    except Exception as error:
        if cluster.place()[1] > 1:
            _explain(verb, error)
            cluster.leave(1)  # to clean up, it would wait for the others
        raise
    finally:
        sys.argv = before
    if cluster.place()[1] > 1:
        cluster.leave(status)
    return status


def _be_quiet() -> None:
    """Without what Lightning says of things that are its own affair."""
    for part in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{part}").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    for message in (
        ".*transfer_batch_to_device.*",  # ours serves both
        ".*LeafSpec.*",
        ".*when using .ckpt_path.*",
        ".*logs directory .* exists and is not empty.*",  # KeptMetrics puts them back
        ".*Checkpoint directory .* exists.*",
        ".*It is recommended to use .*sync_dist=True.*",
        ".*in eval mode at the start of training.*",  # what is trained already and stays so
    ):
        warnings.filterwarnings("ignore", message=message)


def _explain(verb: str, error: Exception) -> None:
    """Says why this process of several cannot go on."""
    number, processes = cluster.place()
    if isinstance(error, WorkshopError):
        print(f"workshop {verb}: {error}", file=sys.stderr)
    else:
        traceback.print_exc()
        print(
            f"workshop {verb}: process {number} of {processes} failed. If it speaks of a "
            f"connection or a time-out, another process died first, and the reason is above or in "
            f"that process's output.",
            file=sys.stderr,
        )


def _settle(recipe: Path, content: dict[str, Any], arguments: list[str]) -> str:
    """Tells the CLI the family and the kinds of its parts; what to give it as the recipe.

    That is the recipe's path or, where the arguments change a kind, its text without that part.
    """
    RecipeCLI.recipe, RecipeCLI.family = recipe, content["family"]
    RecipeCLI.model_type, RecipeCLI.config_type = model_classes(content["family"])
    model = content.get("model")
    model = model if isinstance(model, dict) else {}
    RecipeCLI.kinds, fitting = settle_kinds("model", RecipeCLI.config_type, model, arguments)
    return str(recipe) if fitting == model else yaml.safe_dump({**content, "model": fitting})


def fit(arguments: list[str]) -> int:
    """Trains a model by a recipe."""
    return run("fit", arguments)


def validate(arguments: list[str]) -> int:
    """Measures a model on the validation set."""
    return run("validate", arguments)


def test(arguments: list[str]) -> int:
    """Measures a model on the test set."""
    return run("test", arguments)


if __name__ == "__main__":
    sys.exit(fit(sys.argv[1:]))

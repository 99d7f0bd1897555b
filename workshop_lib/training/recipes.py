"""Recipes: the YAML files under configs/, by short name, and as the command line gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from workshop_lib.errors import WorkshopError
from workshop_lib.training.checkpoints import checkpoint_of

CONFIGS = Path(__file__).parent.parent / "configs"


def recipe_path(name: str) -> Path:
    """A YAML file, or the short name of a recipe of this package, such as tokenizer/tiny.

    Raises WorkshopError, listing the recipes, if there is no such file.
    """
    for path in (Path(name), CONFIGS / f"{name}.yaml"):
        if path.is_file():
            return path
    raise WorkshopError(f"no recipe {name!r}: give a YAML file or one of {', '.join(recipes())}")


def recipes() -> list[str]:
    """The short names of all recipes."""
    return sorted(
        p.relative_to(CONFIGS).with_suffix("").as_posix() for p in CONFIGS.rglob("*.yaml")
    )


def read_recipe(path: Path) -> dict[str, Any]:
    """What a recipe says.

    Raises WorkshopError for a file that is not YAML, or names no family of models.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise WorkshopError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or "family" not in content:
        raise WorkshopError(f"{path}: has no key 'family', e.g. family: tokenizer")
    return content


def expand(verb: str, arguments: list[str]) -> tuple[list[str], int, Path | None]:
    """Short recipe names to paths; a run folder to its config and, to measure it, its newest
    checkpoint; --resume alone to --resume=true.

    Returns the arguments, the place of the recipe's path among them, and the run folder if one was
    given.
    """
    result = [f"{a}=true" if a == "--resume" else a for a in arguments]
    folder = None
    if result and not result[0].startswith("-"):
        folder = Path(result[0])
        if not (folder / "config.yaml").is_file():
            raise WorkshopError(f"{folder}: no run folder (it has no config.yaml); use -c RECIPE")
        result[:1] = ["-c", str(folder / "config.yaml")]
        if verb != "fit":
            result += ["--ckpt_path", str(checkpoint_of(folder))]
    for place, argument in enumerate(result):
        if argument in ("-c", "--config"):
            if place + 1 == len(result):
                break
            result[place + 1] = str(recipe_path(result[place + 1]))
            return result, place + 1, folder
        if argument.startswith("--config="):
            result[place : place + 1] = ["-c", str(recipe_path(argument.partition("=")[2]))]
            return result, place + 1, folder
    if {"-h", "--help"} & set(result):
        return ["-c", str(recipe_path("tokenizer/tiny")), *result], 1, None
    raise WorkshopError(f"`workshop {verb}` needs -c RECIPE; recipes: {', '.join(recipes())}")

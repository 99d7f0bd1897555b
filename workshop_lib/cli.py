"""The `workshop` command: each verb is one library function, its options that function's
parameters, its help that function's docstring."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from inspect import signature
from typing import Any

from workshop_lib.errors import WorkshopError

# verb: (module:function, what it does). Kept as text so that --help imports nothing heavy.
VERBS: dict[str, tuple[str, str]] = {
    "doctor": ("workshop_lib.doctor:doctor", "say what works on this machine, and the fix"),
    "sample": ("workshop_lib.data.sampling:sample", "play the real game and record episodes"),
    "split": ("workshop_lib.data.splitting:split", "train, val and test sets that share no level"),
    "inspect": ("workshop_lib.inspection:inspect", "say what is in a shard; draw a video or sheet"),
    "import": (
        "workshop_lib.media.footage:import_footage",
        "videos, pictures, .npz, .h5 to episodes",
    ),
    "import weights": (
        "workshop_lib.models.oasis_weights:import_weights",
        "public CoinRun diffusion weights to a model file",
    ),
    "convert": (
        "workshop_lib.data.convert:convert",
        "shards to another format (memmap .npy, .npz)",
    ),
    "encode": (
        "workshop_lib.training.encode:encode",
        "a dataset's tokens, once, for training on tokens",
    ),
    "fit": ("workshop_lib.training.run:fit", "train a model by a recipe, e.g. -c tokenizer/tiny"),
    "validate": ("workshop_lib.training.run:validate", "measure a run on the validation set"),
    "test": ("workshop_lib.training.run:test", "measure a run on the test set"),
    "evaluate tokenizer": (
        "workshop_lib.evaluation.tokenizer:evaluate",
        "PSNR, SSIM and codebook use on held-out frames, with pictures",
    ),
    "evaluate lam": (
        "workshop_lib.evaluation.latent_action:evaluate",
        "latent actions beside the true ones, on held-out levels",
    ),
    "evaluate world": (
        "workshop_lib.evaluation.world:evaluate",
        "open-loop rollouts of a world beside its controls, with videos",
    ),
    "evaluate worlds": (
        "workshop_lib.evaluation.compare:evaluate",
        "several worlds beside each other: one table, one figure",
    ),
    "evaluate control": (
        "workshop_lib.evaluation.control:evaluate",
        "whether a world does what is pressed, against the real game",
    ),
    "evaluate termination": (
        "workshop_lib.evaluation.termination:evaluate",
        "how many of the real levels' ends are foreseen, and what else is taken for one",
    ),
    "evaluate levels": (
        "workshop_lib.evaluation.levels:evaluate",
        "long dreams whose levels end, and begin anew",
    ),
    "evaluate game": (
        "workshop_lib.evaluation.game:evaluate",
        "the real game under the keys of long dreams: what a perfect world would have",
    ),
    "generate": (
        "workshop_lib.generate:generate",
        "a world's dream from a prompt and keys, as a video",
    ),
    "play": ("workshop_lib.play.page:serve", "play a world in the browser, without a notebook"),
    "export": ("workshop_lib.training.export:export", "a trained run as one safetensors file"),
    "pretrained list": (
        "workshop_lib.pretrained.verbs:list_models",
        "the trained models, and where they lie on this machine",
    ),
    "pretrained pull": ("workshop_lib.pretrained.verbs:pull", "download trained models by name"),
    "pretrained verify": (
        "workshop_lib.pretrained.verbs:verify",
        "compare trained models with the registry, and open them",
    ),
    "pretrained add": (
        "workshop_lib.pretrained.adding:add",
        "register a trained model, with how it was made and measured",
    ),
    "pretrained publish": (
        "workshop_lib.pretrained.verbs:publish",
        "write trained models where others can pull them",
    ),
    "scaling": (
        "workshop_lib.scaling:scaling",
        "several sizes with equal compute, and the law that they follow",
    ),
    "bench": ("workshop_lib.bench:bench", "how fast data is recorded and loaded here"),
    "bench play": ("workshop_lib.bench_play:bench_play", "how fast a world plays here"),
    "bench train": (
        "workshop_lib.bench_diffusion:bench_train",
        "how fast a diffusion model trains here",
    ),
}


# These parse their own arguments (LightningCLI).
RAW_VERBS = ("fit", "validate", "test")
# Three places in a row are easily swapped: here required parameters are options, too.
NAMED_VERBS = ("encode",)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit status (0 good, 1 failed, 2 wrong usage)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    verb = arguments.pop(0)
    if verb == "--version":
        from workshop_lib import __version__

        print(__version__)
        return 0
    if arguments and f"{verb} {arguments[0]}" in VERBS:
        verb = f"{verb} {arguments.pop(0)}"
    if verb not in VERBS:
        longer = [known for known in VERBS if known.startswith(f"{verb} ")]
        hint = f"say {' or '.join(longer)}" if longer else "`workshop --help` lists them"
        print(f"workshop: no verb {verb!r}; {hint}", file=sys.stderr)
        return 2
    return _run(verb, arguments)


def _run(verb: str, arguments: list[str]) -> int:
    from jsonargparse import auto_cli

    function = _load(VERBS[verb][0])
    try:
        if verb in RAW_VERBS:
            result = function(arguments)
        else:
            arguments = _normalize(arguments, function)
            result = auto_cli(
                function,
                args=arguments,
                prog=f"workshop {verb}",
                as_positional=verb not in NAMED_VERBS,
            )
    except WorkshopError as error:
        print(f"workshop {verb}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nworkshop {verb}: interrupted", file=sys.stderr)
        return 130
    return result if isinstance(result, int) else 0


def _load(target: str) -> Callable[..., Any]:
    module, function = target.split(":")
    return getattr(import_module(module), function)


def _normalize(arguments: list[str], function: Callable[..., Any]) -> list[str]:
    """What people type, as jsonargparse wants it.

    --skip-bad is --skip_bad; a switch alone means yes (--verify), with no- before it no
    (--no-progress).
    """
    parameters = signature(function).parameters.values()
    switches = {"--" + p.name for p in parameters if isinstance(p.default, bool)}
    result = []
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, separator, value = argument.partition("=")
        if name.startswith("--"):
            name = "--" + name[2:].replace("-", "_")
            if not separator and name in switches and following not in ("true", "false"):
                separator, value = "=", "true"
            elif not separator and "--" + name.removeprefix("--no_") in switches:
                name, separator, value = "--" + name.removeprefix("--no_"), "=", "false"
        result.append(name + separator + value)
    return result


def _overview() -> str:
    width = max(len(verb) for verb in VERBS)
    lines = [f"  {verb:<{width}}  {what}" for verb, (_, what) in VERBS.items()]
    return "\n".join(
        ["usage: workshop VERB [options]    (workshop VERB --help says more)", "", *lines]
    )


if __name__ == "__main__":
    sys.exit(main())

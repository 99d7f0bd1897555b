"""From a model's file to a world that can be played."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any, cast

from workshop_lib.data.encoded import KEY, REPEATER, check_tokenizer, tokenizer_beside
from workshop_lib.errors import WorkshopError
from workshop_lib.models.families import OF_PIXELS
from workshop_lib.models.files import load_model, read_metadata
from workshop_lib.models.latent_driven import check_lam, lam_beside
from workshop_lib.models.termination import Termination
from workshop_lib.pretrained import find_file, find_needed
from workshop_lib.worlds.world import World

# family of the model: (module, class, the models that it is made of, in its order); imported when
# asked for
WORLDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "diffusion": ("workshop_lib.worlds.diffusion_world", "DiffusionWorld", ("model", "tokenizer")),
    "diffusion_unet": (
        "workshop_lib.worlds.diffusion_world",
        "DiffusionWorld",
        ("model", "tokenizer"),
    ),
    "next_frame": (
        "workshop_lib.worlds.next_frame_world",
        "NextFrameWorld",
        ("model", "tokenizer"),
    ),
    "dynamics": ("workshop_lib.worlds.token_world", "TokenWorld", ("tokenizer", "model", "lam")),
}
NONE = "none"  # no tokenizer, even if the model's file names one
# what the other files must hold
FAMILY_OF = {"tokenizer": "tokenizer", "lam": "latent_action"}
# how a world dreams, where it has a choice; all verbs call them by these names
OPTIONS = ("steps", "temperature", "sampler", "guidance", "seed")


def open_world(
    model: str | Path,
    tokenizer: str | Path | None = None,
    lam: str | Path | None = None,
    device: str = "cpu",
    **options: Any,
) -> World:
    """The world whose model is in a safetensors file, or is a pretrained one, given by its name.

    tokenizer, lam: the files (or names) of the tokenizer and of the latent action model, for
        worlds of tokens. Those that the model was trained with are found beside it under their own
        names, and among the pretrained ones. In a world of pixels the dreamed frames pass through
        the tokenizer (worlds/repeater.py): the one given, or the one that the model's file names;
        "none" for neither.
    device: where it dreams: "cpu", "cuda", or "auto" for the GPU if there is one.
    options: what the world's class takes besides (steps, temperature, sampler, guidance, seed);
        None leaves the world's own default.

    Raises WorkshopError naming the file that is missing, torn, of another kind or too many, for a
    tokenizer other than the one whose tokens the model learned, and for an option that this world
    does not have.
    """
    model, alone = find_file(model), tokenizer == NONE
    tokenizer = None if tokenizer is None or alone else find_file(tokenizer)
    lam = None if lam is None else find_file(lam)
    metadata = read_metadata(model)
    family = metadata["family"]
    given = fitting_options(str(model), family, options)
    module, name, parts = WORLDS[family]
    of_pixels = family in OF_PIXELS
    note = REPEATER if of_pixels else KEY
    if tokenizer is None and not alone:
        tokenizer = tokenizer_beside(model, metadata, note) or find_needed(metadata, note)
    if tokenizer is None and not (of_pixels and (alone or note not in metadata)):
        other = " (or none)" if of_pixels else ""
        raise WorkshopError(f"{model}: a {family} world needs --tokenizer FILE{other}, too")
    if lam is None and "lam" in parts:
        lam = lam_beside(model, metadata) or find_needed(metadata, "lam")
    others = {"tokenizer": tokenizer, "lam": lam}
    for part, path in others.items():
        if path is not None and part not in parts:
            raise WorkshopError(f"{model}: a {family} world takes no --{part} (got {path})")
        if path is not None and (found := read_metadata(path)["family"]) != FAMILY_OF[part]:
            raise WorkshopError(f"{path}: holds a {found}, not the {part}")
    if tokenizer is not None and not of_pixels:
        check_tokenizer(metadata, tokenizer)
    paths = {"model": model, **others}
    files = [paths[part] for part in parts]
    place = choose_device(device)
    models: list[Any] = [None if path is None else load_model(path, place) for path in files]
    if lam is not None:
        check_lam(metadata, models[parts.index("lam")], lam)
    world: World = getattr(import_module(module), name)(*models, **given)
    return world


def open_termination(model: str | Path) -> Termination:
    """What says when a level is over, from its file or by the name of a pretrained one.

    Raises WorkshopError naming the file if it is missing, torn, or holds something else.
    """
    path = find_file(model)
    if (found := read_metadata(path)["family"]) != "termination":
        raise WorkshopError(f"{path}: holds a {found}, not a termination")
    return cast(Termination, load_model(path))


def fitting_options(model: str, family: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options but for those that are None: nobody gave them, the world has its own.

    Raises WorkshopError naming the model for an option that a world of this family does not have,
    and for a family that is no world's.
    """
    known = _known(model, family)
    given = {key: value for key, value in options.items() if value is not None}
    for key in given:
        if key not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise WorkshopError(f"{model}: a {family} world has no option {key!r}; {has}")
    return given


def share_options(models: Sequence[str], given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each of several worlds those of the options that it has; None counts as not given.

    Raises WorkshopError for an option that none of them has, and naming a file that is missing,
    torn or no world's.
    """
    known = [_known(model, read_metadata(find_file(model))["family"]) for model in models]
    told = {key: value for key, value in given.items() if value is not None}
    for key in told:
        if not any(key in names for names in known):
            raise WorkshopError(f"no option {key!r} in any of these worlds: {', '.join(models)}")
    return [{key: value for key, value in told.items() if key in names} for names in known]


def options_of(world: Any) -> dict[str, int | float | str]:
    """Which of OPTIONS a world has, and how they stand: how what it dreams is made."""
    found = {name: getattr(world, name, None) for name in OPTIONS}
    return {name: v for name, v in found.items() if isinstance(v, int | float | str)}


def _known(model: str, family: str) -> list[str]:
    """The options that a family's world has: what its class takes besides its models."""
    if family not in WORLDS:
        raise WorkshopError(
            f"{model}: a {family} alone is no world; give a model of {' or '.join(sorted(WORLDS))}"
        )
    module, name, parts = WORLDS[family]
    return list(signature(getattr(import_module(module), name)).parameters)[len(parts) :]


def choose_device(name: str) -> str:
    """A device by its name, as PyTorch knows it; "auto" is the GPU if there is one."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name

"""From a model's file to a world that can be played."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

from workshop_lib.data.encoded import check_tokenizer, tokenizer_beside
from workshop_lib.errors import WorkshopError
from workshop_lib.models.files import load_model, read_metadata
from workshop_lib.models.latent_driven import check_lam, lam_beside
from workshop_lib.pretrained import find_file, find_needed
from workshop_lib.worlds.world import World

# family of the model: (module, class, the models that it is made of, in its order); imported when
# asked for
WORLDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "diffusion": ("workshop_lib.worlds.diffusion_world", "DiffusionWorld", ("model",)),
    "diffusion_unet": ("workshop_lib.worlds.diffusion_world", "DiffusionWorld", ("model",)),
    "next_frame": ("workshop_lib.worlds.next_frame_world", "NextFrameWorld", ("model",)),
    "dynamics": ("workshop_lib.worlds.token_world", "TokenWorld", ("tokenizer", "model", "lam")),
}
OPTIONAL = ("lam",)
# what the other files must hold
FAMILY_OF = {"tokenizer": "tokenizer", "lam": "latent_action"}


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
        names, and among the pretrained ones.
    device: where it dreams: "cpu", "cuda", or "auto" for the GPU if there is one.
    options: what the world's class takes besides (steps, temperature, seed); None leaves the
        world's own default.

    Raises WorkshopError naming the file that is missing, torn, of another kind or too many, for a
    tokenizer other than the one whose tokens the model learned, and for an option that this world
    does not have.
    """
    model = find_file(model)
    tokenizer, lam = (None if part is None else find_file(part) for part in (tokenizer, lam))
    metadata = read_metadata(model)
    family = metadata["family"]
    if family not in WORLDS:
        raise WorkshopError(
            f"{model}: a {family} alone is no world; give a model of {' or '.join(sorted(WORLDS))}"
        )
    module, name, parts = WORLDS[family]
    if tokenizer is None and "tokenizer" in parts:
        tokenizer = tokenizer_beside(model, metadata) or find_needed(metadata, "tokenizer")
    if lam is None and "lam" in parts:
        lam = lam_beside(model, metadata) or find_needed(metadata, "lam")
    others = {"tokenizer": tokenizer, "lam": lam}
    for part, path in others.items():
        if path is not None and part not in parts:
            raise WorkshopError(f"{model}: a {family} world takes no --{part} (got {path})")
        if path is None and part in parts and part not in OPTIONAL:
            raise WorkshopError(f"{model}: a {family} world needs --{part} FILE, too")
        if path is not None and (found := read_metadata(path)["family"]) != FAMILY_OF[part]:
            raise WorkshopError(f"{path}: holds a {found}, not the {part}")
    if tokenizer is not None:
        check_tokenizer(metadata, tokenizer)
    world_class = getattr(import_module(module), name)
    given = {key: value for key, value in options.items() if value is not None}
    known = list(signature(world_class).parameters)[len(parts) :]
    for key in given:
        if key not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise WorkshopError(f"{model}: a {family} world has no option {key!r}; {has}")
    paths = {"model": model, **others}
    files = [paths[part] for part in parts]
    place = _device(device)
    models: list[Any] = [None if path is None else load_model(path, place) for path in files]
    if lam is not None:
        check_lam(metadata, models[parts.index("lam")], lam)
    world: World = world_class(*models, **given)
    return world


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name

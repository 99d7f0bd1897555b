"""A trained model as one safetensors file, its config inside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from workshop_lib import __version__
from workshop_lib.errors import WorkshopError
from workshop_lib.models.families import config_from_dict, config_to_dict, model_classes
from workshop_lib.models.shared import MEAN, mean_beside, without_mean

FORMAT = "workshop-lib 1"


def save_model(
    model: nn.Module,
    family: str,
    path: Path,
    notes: dict[str, str],
    dtype: str = "float32",
    mean: Path | None = None,
) -> None:
    """Writes weights, buffers and config; `load_model` makes the model again.

    mean: the file of the predictor inside, which is then left out (models/shared.py).

    Raises WorkshopError for an unknown dtype, and for a mean that is not what is inside.
    """
    kinds = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
    if dtype not in kinds:
        raise WorkshopError(f"unknown dtype {dtype!r}: choose one of {', '.join(kinds)}")
    state = {
        name: (value.to(kinds[dtype]) if value.is_floating_point() else value).contiguous().cpu()
        for name, value in model.state_dict().items()
    }
    if mean is not None:
        state, note = without_mean(state, mean)
        notes = {**notes, MEAN: note}
    config: Any = model.config
    metadata = {
        "format": FORMAT,
        "family": family,
        "config": json.dumps(config_to_dict(config)),
        "library_version": __version__,
        **notes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    save_file(state, partial, metadata)
    partial.replace(path)


def run_note(folder: Path) -> str:
    """How a file names the run that it comes from: the folder as it was given, or, where that is
    a whole path of this machine, which nobody else has, its last two parts."""
    return str(Path(*folder.parts[-2:]) if folder.is_absolute() else folder)


def read_metadata(path: str | Path) -> dict[str, str]:
    """What stands beside the weights: family, config (as JSON), library_version, and the notes.

    Raises WorkshopError naming the file if it is missing, torn, or holds something else.
    """
    path = Path(path)
    if not path.is_file():
        raise WorkshopError(f"{path}: no such file; `workshop export RUN` makes one")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise WorkshopError(f"{path}: not a whole safetensors file ({error})") from error
    if metadata.get("format") != FORMAT:
        raise WorkshopError(f"{path}: holds no model of this library (no {FORMAT!r} in its header)")
    return metadata


def load_model(path: str | Path, device: str | torch.device = "cpu") -> nn.Module:
    """The model in a file that `save_model` wrote, in float32 and in evaluation mode.

    Raises WorkshopError naming the file if it is missing, torn, or holds something else, or if the
    file with a part of it is not beside it.
    """
    metadata = read_metadata(path)
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    state |= mean_beside(Path(path), metadata)
    model_class, config_class = model_classes(metadata["family"])
    model = model_class(config_from_dict(config_class, json.loads(metadata["config"])))
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise WorkshopError(f"{path}: weights do not fit its config ({error})") from error
    return model.to(device).eval()

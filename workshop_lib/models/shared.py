"""A next-frame predictor inside a diffusion model, kept in its own file and not written twice.

A diffusion model that was trained around a finished predictor (`model.train_mean` false) holds all
of its weights unchanged. Its file may leave them out, and name the predictor's file, which must
then lie beside it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from workshop_lib.errors import WorkshopError

MEAN = "mean"  # in the metadata of the model's file; its weights begin with this, too


def without_mean(state: Mapping[str, Tensor], file: Path) -> tuple[dict[str, Tensor], str]:
    """The weights but for the predictor's, and what the metadata says of its file.

    state: as it is written. file: of the predictor, in the same precision.

    Raises WorkshopError if the model has another predictor inside, or none.
    """
    inside = {name for name in state if name.startswith(f"{MEAN}.")}
    theirs = _weights(file)
    same = inside == set(theirs) and all(torch.equal(state[name], theirs[name]) for name in inside)
    if not same:
        raise WorkshopError(
            f"{file}: is not the predictor inside this model, or in another precision; train with"
            f" --start_from {file.stem} --model.train_mean false, and export in its dtype"
        )
    note = {"file": file.name, "sha256": _sha256(file)}
    return {name: state[name] for name in state if name not in inside}, json.dumps(note)


def mean_beside(path: Path, metadata: Mapping[str, str]) -> dict[str, Tensor]:
    """The predictor's weights by the names that the model has for them; none if all are inside.

    Raises WorkshopError naming the predictor's file if it is missing or another one.
    """
    note = json.loads(metadata.get(MEAN, "null"))
    if note is None:
        return {}
    file = path.with_name(note["file"])
    if not file.is_file():
        raise WorkshopError(
            f"{path}: a part of it is in {file.name}, which does not lie beside it;"
            f" `workshop pretrained pull {file.stem}`, or copy it there"
        )
    if _sha256(file) != note["sha256"]:
        raise WorkshopError(f"{file}: is not the file with which {path.name} was trained")
    return _weights(file)


def _weights(file: Path) -> dict[str, Tensor]:
    with safe_open(file, framework="pt") as opened:
        return {f"{MEAN}.{key}": opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()

"""The model of a finished run as one file: `workshop export`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml

from workshop_lib.data.encoded import KEY, REPEATER, tokenizer_entry, tokenizer_note
from workshop_lib.errors import WorkshopError
from workshop_lib.models.families import OF_PIXELS, config_from_dict, model_classes
from workshop_lib.models.files import read_metadata, run_note, save_model
from workshop_lib.models.latent_driven import KEY as LAM_KEY
from workshop_lib.pretrained import find_file
from workshop_lib.training.encode import load_tokenizer
from workshop_lib.training.unseen_keys import seen_actions, settle_unseen


def export(
    run: str,
    out: str | None = None,
    checkpoint: str = "last.ckpt",
    dtype: str = "float32",
    repeater: str | None = None,
    mean: str | None = None,
) -> Path:
    """Writes a run's averaged weights and config as one safetensors file.

    Args:
        run: run folder.
        out: the file; by default model.safetensors in the run folder.
        checkpoint: which one of the run's checkpoints.
        dtype: float32, float16 or bfloat16; half the size where quality holds.
        repeater: for a world of pixels, the file or name of a tokenizer through which its dreams
            shall pass, so that they last.
        mean: for a model of diffusion around a finished next-frame predictor, the file or name of
            that: it is not written again, and must lie beside the new file where that is opened.

    Raises WorkshopError for a folder that is no run's, for a repeater where there can be none, and
    for a mean that is not the one inside.
    """
    folder = Path(run)
    config_path, path = folder / "config.yaml", folder / "checkpoints" / checkpoint
    for needed in (config_path, path):
        if not needed.is_file():
            raise WorkshopError(f"{needed}: no such file; is {folder} a run folder?")
    config = yaml.safe_load(config_path.read_text())
    model_class, config_class = model_classes(config["family"])
    model = model_class(config_from_dict(config_class, config["model"]))
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    # A dynamics driven by latent actions was trained in one model with these.
    driven = any(key.startswith("model.dynamics.") for key in state)
    prefix = "model.dynamics." if driven else "model."
    model.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
    settle_unseen(model, seen_actions(config["data"]["path"]))
    target = Path(out) if out else folder / "model.safetensors"
    notes = {"run": run_note(folder), **_notes(folder, config)}
    if repeater is not None:
        notes[REPEATER] = json.dumps(_repeater(config["family"], find_file(repeater)))
    inside = None if mean is None else Path(find_file(mean))
    save_model(model, config["family"], target, notes, dtype, inside)
    print(f"{target}: {sum(p.numel() for p in model.parameters()):,} parameters")
    return target


def _repeater(family: str, file: Path) -> dict[str, Any]:
    """What the file of a world of pixels says of the tokenizer through which its dreams pass."""
    if family not in OF_PIXELS:
        names = ", ".join(OF_PIXELS)
        raise WorkshopError(f"--repeater is for {names}; this run trained a {family}")
    tokenizer = load_tokenizer(file)
    return tokenizer_entry(file, tokenizer.num_codes, tokenizer.config.grid)


def _notes(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """What it was trained with: by the run's own file, else by its data."""
    finished = folder / "model.safetensors"
    if finished.is_file():
        kept = (KEY, LAM_KEY)
        return {key: text for key, text in read_metadata(finished).items() if key in kept}
    return tokenizer_note(config["data"]["path"])

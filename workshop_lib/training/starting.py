"""A new run that starts with the weights of a trained model: `workshop fit --start_from FILE`."""

from __future__ import annotations

from torch import nn

from workshop_lib.errors import WorkshopError
from workshop_lib.models.diffusion import Diffusion
from workshop_lib.models.diffusion_unet import DiffusionUNet
from workshop_lib.models.files import load_model
from workshop_lib.models.next_frame import NextFrame
from workshop_lib.pretrained.finding import find_file


def start_from(model: nn.Module, name: str) -> None:
    """Gives a model the weights of a trained one, or, if that is a next-frame predictor, gives them
    to the predictor inside a diffusion model.

    name: a file, or the name of a trained model; of the same shape, while what only concerns
        training or play (noise, unroll, steps) may differ. A count of training steps comes along:
        with `unroll_after`, those of the other model count. So do a palette's shares, if both have
        one.

    Raises WorkshopError for a model of another kind or shape.
    """
    found, part = load_model(find_file(name)), model
    if isinstance(model, Diffusion | DiffusionUNet) and isinstance(found, NextFrame):
        inside = model.mean
        if inside is None or (isinstance(model, DiffusionUNet) and not model.config.with_mean):
            raise WorkshopError(f"--start_from {name}: model.mean is off, so none is inside")
        part = inside
    if type(found) is not type(part):
        raise WorkshopError(
            f"--start_from {name}: holds a {type(found).__name__}, to be trained is a "
            f"{type(model).__name__}"
        )
    ours, theirs = part.state_dict(), found.state_dict()
    # What is counted in training begins anew where it is new, and stays behind where it is not.
    for key in [key for key in ours.keys() ^ theirs.keys() if key.startswith("palette.")]:
        theirs.pop(key, None)
        ours.pop(key, None)
    for key in sorted(ours.keys() | theirs.keys()):
        sizes = [tuple(w[key].shape) if key in w else "missing" for w in (theirs, ours)]
        if sizes[0] != sizes[1]:
            raise WorkshopError(
                f"--start_from {name}: another shape of model ({key} is {sizes[0]}, here "
                f"{sizes[1]}); train with the model's keys of that run"
            )
    part.load_state_dict({**part.state_dict(), **theirs})

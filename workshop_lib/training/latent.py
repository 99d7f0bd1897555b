"""`workshop fit` of a dynamics that is driven by latent actions."""

from __future__ import annotations

from torch import nn

from workshop_lib.errors import WorkshopError
from workshop_lib.models.dynamics import Dynamics
from workshop_lib.models.files import load_model
from workshop_lib.models.latent_action import LatentActionModel
from workshop_lib.models.latent_driven import LatentDriven
from workshop_lib.pretrained.finding import find_file
from workshop_lib.training.live import from_recipe


def with_latent_actions(model: Dynamics, lam: str | None, joint: bool) -> nn.Module:
    """What is trained: the dynamics alone or, with drive "latent", driven by a latent action model.

    lam: its file, or the name of a trained one; where both learn also the name of a recipe, for one
        that knows nothing yet.

    Raises WorkshopError if the drive needs a file and has none, or takes none.
    """
    if lam is None:
        if model.config.drive == "latent" or joint:
            raise WorkshopError("model.drive latent, and --joint, need --lam FILE")
        return model
    path = find_file(lam)
    if joint and not path.is_file():
        found, _ = from_recipe(lam)
    else:
        found = load_model(path)
    if not isinstance(found, LatentActionModel):
        raise WorkshopError(f"--lam {lam}: holds a {type(found).__name__}, no latent action model")
    driven = LatentDriven(model, found, joint)
    if not joint:
        driven.lam_file = path.name
    return driven

"""`workshop fit` of a dynamics that is driven by latent actions."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from workshop_lib.errors import WorkshopError
from workshop_lib.models.dynamics import Dynamics
from workshop_lib.models.files import load_model
from workshop_lib.models.latent_action import LatentActionModel
from workshop_lib.models.latent_driven import LatentDriven
from workshop_lib.training.live import from_recipe

EXPORT = "lam.safetensors"  # beside the dynamics, where both were trained


def with_latent_actions(model: Dynamics, lam: str | None, joint: bool) -> nn.Module:
    """What is trained: the dynamics alone or, with drive "latent", driven by a latent action model.

    lam: its file; where both learn also the name of a recipe, for one that knows nothing yet.

    Raises WorkshopError if the drive needs a file and has none, or takes none.
    """
    if lam is None:
        if model.config.drive == "latent" or joint:
            raise WorkshopError("model.drive latent, and --joint, need --lam FILE")
        return model
    if Path(lam).suffix == ".safetensors" or not joint:
        found = load_model(lam)
    else:
        found, _ = from_recipe(lam)
    if not isinstance(found, LatentActionModel):
        raise WorkshopError(f"--lam {lam}: holds a {type(found).__name__}, no latent action model")
    return LatentDriven(model, found, joint)

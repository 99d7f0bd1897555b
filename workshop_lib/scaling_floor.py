"""The loss that a diffusion transformer keeps because of the width of its last layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from workshop_lib.data.clip import Clip


def floor_of(model: Any, clip: Clip) -> tuple[int, float] | None:
    """Width of a model's last layer, and the v_mse over these clips that it cannot go below.

    None for models that are no diffusion transformers, and for those that add something else to
    what the last layer says (displacement, a mean, preconditioning).
    """
    from workshop_lib.models.diffusion import Diffusion

    if not isinstance(model, Diffusion) or model.config.prediction not in ("x", "v"):
        return None
    config = model.config
    if config.displacement or config.mean or config.data_std:
        return None
    net = config.net
    return net.dim, width_floor(config.prediction, net.dim, patches_of(clip, net.patch))


def patches_of(clip: Clip, side: int) -> torch.Tensor:
    """Every patch of every frame as numbers, (count, 3 * side^2)."""
    import torch.nn.functional as F

    return F.pixel_unshuffle(clip.video.flatten(0, 1), side).movedim(1, -1).flatten(0, 2)


def width_floor(prediction: str, width: int, patches: torch.Tensor) -> float:
    """The squared error of v, a mean over the public schedule's levels, that stays if "v" or "x" is
    predicted through a linear layer with `width` inputs.

    Such a layer reaches only `width` directions of a patch's n numbers. Best are those along which
    the targets spread most; all of the others is lost, even to a network that knows the answer.
    v = alpha eps - sigma x0 spreads by alpha^2 in every direction, that of the noise, and so
    E[alpha^2] (1 - width / n) is lost, and a little of the picture. x0 has few directions that
    count; what is lost of it is an error in v of 1 / sigma^2 as much.

    patches: (count, n), clean ones, -1 to 1.
    """
    import torch

    from workshop_lib.models.noise_schedules import TableSchedule

    alpha, sigma = TableSchedule("sigmoid").alpha_sigma(torch.arange(1, 1001))
    alpha2, sigma2 = alpha.double().square(), sigma.double().square()
    noise, picture = {"v": (alpha2.mean(), sigma2.mean()), "x": (0.0, (1 / sigma2).mean())}[
        prediction
    ]
    spreads = torch.linalg.eigvalsh(torch.cov(patches.T.double().cpu())).clamp(min=0)
    lost = (noise + picture * spreads)[: max(0, len(spreads) - width)]  # the smallest come first
    return float(lost.sum() / len(spreads))

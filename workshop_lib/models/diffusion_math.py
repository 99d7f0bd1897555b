"""The mathematics of diffusion: what a network may predict, and how to sample from it.

A picture x0 at noise level l is x = alpha(l) x0 + sigma(l) eps, eps ~ N(0, 1). The schedule says
what alpha and sigma are (models/noise_schedules.py). A network looks at x and l and predicts x0, or
something from which x0 follows. A sampler goes from pure noise down to level 0 and asks at every
step for one thing only:

    denoise(x, level) -> x0, the mean of the clean pictures that x may have come from

so that any network, or a test's known distribution, fits every sampler. In samplers a level is one
number; elsewhere alpha and sigma may have any shape that broadcasts to the pictures'.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from workshop_lib.errors import WorkshopError
from workshop_lib.models.noise_schedules import Schedule, TableSchedule

Denoise = Callable[[Tensor, Tensor], Tensor]
Prediction = Literal["x", "v", "flow", "noise"]
SamplerName = Literal["ddim", "euler", "heun", "dpm"]


# What a network may predict. Each is a mix of x0 and eps, so that with x it gives away both.


def to_x0(kind: Prediction, predicted: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The clean picture that a prediction means, at the noisy picture x.

    "x" is x0 itself, "noise" eps, "v" = alpha eps - sigma x0 (Salimans and Ho 2022, appendix D)
    and "flow" = eps - x0, the direction of the straight line. Each line below solves its
    definition, together with x = alpha x0 + sigma eps, for x0; so it holds under every schedule.

    "noise" divides by alpha: no use where nothing is left of the picture.
    """
    if kind == "x":
        return predicted
    if kind == "noise":
        return (x - sigma * predicted) / alpha
    if kind == "v":
        return (alpha * x - sigma * predicted) / (alpha**2 + sigma**2)
    if kind == "flow":
        return (x - sigma * predicted) / (alpha + sigma)
    raise WorkshopError(f"prediction {kind!r}: choose one of x, v, flow, noise")


def from_x0(kind: Prediction, x0: Tensor, x: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The prediction that means x0; the inverse of `to_x0`. Needs sigma > 0 but for "x"."""
    if kind == "x":
        return x0
    eps = noise_in(x, x0, alpha, sigma)
    if kind == "noise":
        return eps
    if kind == "v":
        return alpha * eps - sigma * x0
    if kind == "flow":
        return eps - x0
    raise WorkshopError(f"prediction {kind!r}: choose one of x, v, flow, noise")


def noise_in(x: Tensor, x0: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """eps, the noise in x if x0 is the clean picture. Needs sigma > 0."""
    return (x - alpha * x0) / sigma


def loss_weight(kind: Prediction, alpha: Tensor, sigma: Tensor, most: float = math.inf) -> Tensor:
    """What turns a squared error of x0 into the squared error of another prediction.

    So a network that predicts x0 can be trained as if it predicted v: little noise counts more.
    At sigma 0 that is infinite; `most` is the limit (Hang et al. 2023, "min-SNR").
    """
    if kind == "x":
        return torch.ones_like(sigma)
    per_x0 = {"noise": alpha, "v": alpha**2 + sigma**2, "flow": alpha + sigma}[kind]
    return (per_x0 / sigma).square().clamp(max=most)


class Preconditioning(NamedTuple):
    """Karras et al. 2022, table 1: x0 = skip x + out network(in_ x), so that what goes into the
    network and what it must give have unit variance at every level; weight is the loss's."""

    skip: Tensor
    out: Tensor
    in_: Tensor
    weight: Tensor


def precondition(alpha: Tensor, sigma: Tensor, data_std: float = 0.5) -> Preconditioning:
    """EDM's factors, for any schedule; data_std: of the clean pictures' pixels in [-1, 1]."""
    variance = (alpha * data_std) ** 2 + sigma**2
    skip = alpha * data_std**2 / variance
    out = sigma * data_std / variance.sqrt()
    return Preconditioning(skip, out, variance.rsqrt(), out**-2)


def guide(given: Tensor, without: Tensor, scale: float) -> Tensor:
    """x0 pushed towards what the condition adds (Ho and Salimans 2022, equation 6; 1 is off)."""
    return torch.lerp(without, given, scale)


# Samplers. x is sigma(top) times noise; levels come from schedule.steps(count); each step costs one
# `denoise`, but for heun two.


def ddim(denoise: Denoise, x: Tensor, schedule: Schedule, levels: Tensor) -> Tensor:
    """x' = alpha' x0 + sigma' eps (Song et al. 2021, "DDIM", equation 12 without fresh noise):
    take x0 and eps apart, and put them together again with less noise."""
    alphas, sigmas = schedule.alpha_sigma(levels)
    for i in range(len(levels) - 1):
        x0 = denoise(x, levels[i])
        eps = noise_in(x, x0, alphas[i], sigmas[i])
        x = alphas[i + 1] * x0 + sigmas[i + 1] * eps
    return x


def euler(denoise: Denoise, x: Tensor, schedule: Schedule, levels: Tensor) -> Tensor:
    """x' = x + (t' - t) dx/dt with dx/dt = (x - x0) / t: a straight step along the flow (Lipman et
    al. 2023) or in sigma (Karras et al. 2022, equation 3). Lands where `ddim` does. For schedules
    flow and edm."""
    for t, following in pairwise(levels):
        x = x + (following - t) * (x - denoise(x, t)) / t
    return x


def heun(denoise: Denoise, x: Tensor, schedule: Schedule, levels: Tensor) -> Tensor:
    """Euler's step, then again with the mean of the slopes at both ends; the last step, to 0, as in
    `euler` (Karras et al. 2022, algorithm 1). For schedules flow and edm."""
    for t, following in pairwise(levels):
        slope = (x - denoise(x, t)) / t
        ahead = x + (following - t) * slope
        if following > 0:
            slope = (slope + (ahead - denoise(ahead, following)) / following) / 2
        x = x + (following - t) * slope
    return x


def dpm(denoise: Denoise, x: Tensor, schedule: Schedule, levels: Tensor) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2). With lambda = ln(alpha / sigma), h the
    step in it and h_last the one before, x' = sigma'/sigma x + alpha' (1 - e^-h) D, where D goes
    half a step ahead of x0: D = x0 + h / (2 h_last) (x0 - x0_last). Second order for one pass a
    step; the first and the last step are `ddim`'s."""
    alphas, sigmas = schedule.alpha_sigma(levels)
    lambdas = alphas.log() - sigmas.log()
    last = None
    for i in range(len(levels) - 1):
        alpha, sigma = alphas[i + 1], sigmas[i + 1]
        x0 = denoise(x, levels[i])
        ahead = x0
        if last is not None and sigma > 0:
            h, h_last = lambdas[i + 1] - lambdas[i], lambdas[i] - lambdas[i - 1]
            ahead = x0 + h / (2 * h_last) * (x0 - last)
        shrink = sigma / sigmas[i]
        x = shrink * x + (alpha - shrink * alphas[i]) * ahead  # alpha' e^-h = shrink alpha
        last = x0
    return x


SAMPLERS: dict[str, Callable[[Denoise, Tensor, Schedule, Tensor], Tensor]] = {
    "ddim": ddim,
    "euler": euler,
    "heun": heun,
    "dpm": dpm,
}


def check_sampler(sampler: str, schedule: Schedule) -> None:
    """Raises WorkshopError for a sampler that does not follow this schedule."""
    if sampler in ("euler", "heun") and isinstance(schedule, TableSchedule):
        raise WorkshopError(
            f"sampler {sampler!r} follows schedules flow and edm; with sigmoid and cosine use"
            " 'ddim' (the same step as euler) or 'dpm'"
        )

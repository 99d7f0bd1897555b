"""Noise schedules: what noise level means, where training draws its levels and sampling steps.

At level l a picture x0 has become x = alpha(l) x0 + sigma(l) eps, eps ~ N(0, 1). A schedule says
what alpha and sigma are (models/diffusion_math.py does the rest). Levels are float32 tensors of any
shape; 0 is clean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

from workshop_lib.errors import WorkshopError

ScheduleName = Literal["sigmoid", "cosine", "flow", "edm"]


class Schedule(Protocol):
    """What noise level means. 0 is a clean picture; `top` is where sampling begins."""

    top: float

    def alpha_sigma(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """float32 alpha and sigma of each level, in its shape."""
        ...

    def level_of(self, ratio: Tensor) -> Tensor:
        """The level whose sigma / alpha is `ratio`: levels of different schedules compare."""
        ...

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Random levels to train on, float32, on the generator's device (or the CPU)."""
        ...

    def steps(self, count: int) -> Tensor:
        """float32 (count + 1,), the levels that a sampler visits: from `top` down to 0."""
        ...

    def label(self, level: Tensor) -> Tensor:
        """What networks are told: a number from about 0 to 1000 that grows with the noise."""
        ...


class TableSchedule:
    """Variance preserving: alpha^2 + sigma^2 = 1, in 1000 discrete levels n = 1 to 1000.

    alpha^2(n) is a product of (1 - beta), each beta at most .999, where the curve would be
    "sigmoid": (s(3) - s(6 n / 1000 - 3)) / (s(3) - s(-3)) (Jabri et al. 2022, "Scalable adaptive
    computation", start -3, end 3, tau 1); "cosine": cos^2((n / 1000 + .008) / 1.008 pi / 2)
    relative to n = 0 (Nichol and Dhariwal 2021, equation 17).

    Networks are told n - 1, as the public CoinRun and Oasis weights are. Levels are rounded to
    whole ones.
    """

    top = 1000.0

    def __init__(self, curve: Literal["sigmoid", "cosine"]) -> None:
        t = torch.arange(1001, dtype=torch.float64) / 1000
        if curve == "sigmoid":
            ends = torch.sigmoid(torch.tensor([-3.0, 3.0], dtype=torch.float64))
            kept = (ends[1] - torch.sigmoid(6 * t - 3)) / (ends[1] - ends[0])
        else:
            kept = torch.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2
        kept = kept / kept[0]
        beta = (1 - kept[1:] / kept[:-1]).clamp(0, 0.999)
        alpha2 = torch.cat([kept[:1], torch.cumprod(1 - beta, 0)])
        table = torch.stack([alpha2.sqrt(), (1 - alpha2).sqrt()]).float()
        self._tables = {torch.device("cpu"): table}

    def _table(self, device: torch.device) -> Tensor:
        if device not in self._tables:
            self._tables[device] = self._tables[torch.device("cpu")].to(device)
        return self._tables[device]

    def alpha_sigma(self, level: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self._table(level.device)
        n = level.round().long()
        return alpha[n], sigma[n]

    def level_of(self, ratio: Tensor) -> Tensor:
        alpha, sigma = self._table(ratio.device)
        between = (sigma / alpha)[:-1].lerp((sigma / alpha)[1:], 0.5)
        return torch.bucketize(ratio, between).float()

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        return torch.randint(1, 1001, shape, generator=generator, device=_where(generator)).float()

    def steps(self, count: int) -> Tensor:
        return torch.linspace(1000, 0, count + 1).round()

    def label(self, level: Tensor) -> Tensor:
        return level.round() - 1


class FlowSchedule:
    """Straight lines: alpha = 1 - t, sigma = t, t from 0 to 1 (Lipman et al. 2023).

    Training levels are sigmoid(N(mean, std)) (Esser et al. 2024, "Scaling rectified flow",
    section 3.1); std 0 stands for evenly spread ones. Networks are told 1000 t.
    """

    top = 1.0

    def __init__(self, mean: float = 0.0, std: float = 0.0) -> None:
        self.mean, self.std = mean, std

    def alpha_sigma(self, level: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - level, level

    def level_of(self, ratio: Tensor) -> Tensor:
        return 1 - 1 / (1 + ratio)

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        device = _where(generator)
        if self.std == 0:
            return torch.rand(shape, generator=generator, device=device)
        normal = torch.randn(shape, generator=generator, device=device)
        return torch.sigmoid(self.mean + self.std * normal)

    def steps(self, count: int) -> Tensor:
        return torch.linspace(1, 0, count + 1)

    def label(self, level: Tensor) -> Tensor:
        return 1000 * level


class EDMSchedule:
    """Noise on top: alpha = 1, and the level is sigma itself (Karras et al. 2022, "EDM").

    Sampling goes from `top` to `least` by their equation 5, and then to 0; training levels have
    ln sigma ~ N(mean, std) (table 1). Defaults as in DIAMOND (Alonso et al. 2024). Networks are
    told c_noise = ln(sigma) / 4, brought to a range of about 0 to 1000: 500 (1 + c_noise).
    """

    def __init__(
        self,
        top: float = 5.0,
        least: float = 0.002,
        rho: float = 7.0,
        mean: float = -0.4,
        std: float = 1.2,
    ) -> None:
        self.top, self.least, self.rho, self.mean, self.std = top, least, rho, mean, std

    def alpha_sigma(self, level: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(level), level

    def level_of(self, ratio: Tensor) -> Tensor:
        return ratio

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        normal = torch.randn(shape, generator=generator, device=_where(generator))
        return torch.exp(self.mean + self.std * normal)

    def steps(self, count: int) -> Tensor:
        ends = self.top ** (1 / self.rho), self.least ** (1 / self.rho)
        sigmas = torch.linspace(*ends, count, dtype=torch.float64) ** self.rho
        return torch.cat([sigmas, torch.zeros(1)]).float()

    def label(self, level: Tensor) -> Tensor:
        return 500 * (1 + level.clamp(min=self.least).log() / 4)


def _where(generator: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if generator is None else generator.device


def make_schedule(name: ScheduleName) -> Schedule:
    """A schedule with its defaults. Raises WorkshopError for an unknown name."""
    if name == "sigmoid" or name == "cosine":
        return TableSchedule(name)
    others: dict[str, Callable[[], Schedule]] = {"flow": FlowSchedule, "edm": EDMSchedule}
    if name not in others:
        raise WorkshopError(f"schedule {name!r}: choose one of sigmoid, cosine, flow, edm")
    return others[name]()

"""AdamW and its learning rate over time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from workshop_lib.errors import WorkshopError


@dataclass(frozen=True)
class OptimConfig:
    """lr: the highest learning rate.
    betas, weight_decay: of AdamW (Loshchilov and Hutter, 2019). Only matrices decay; biases,
        norms and codebooks do not.
    clip: gradients longer than this, all together, are shortened to it; 0 never.
    schedule: "cosine" falls from lr to end_lr along half a cosine; "wsd" (warm-up, stable, decay;
        Hu et al., 2024) holds lr and falls in the last `decay_share` of the steps; "constant".
    warmup: steps over which the rate climbs from 0 to lr.
    end_lr: the last rate, as a share of lr.
    ema: decay of the averaged weights, which are validated and exported; 0 for none. Early on the
        average is over the last tenth of the steps, so that short runs are not held back.
    """

    lr: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    clip: float = 1.0
    schedule: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup: int = 100
    end_lr: float = 0.03
    decay_share: float = 0.2
    ema: float = 0.999

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise WorkshopError(f"optim.lr must be above 0, got {self.lr}")
        if not 0 <= self.ema < 1:
            raise WorkshopError(f"optim.ema must be in [0, 1), got {self.ema}")
        if not 0 < self.decay_share <= 1:
            raise WorkshopError(f"optim.decay_share must be in (0, 1], got {self.decay_share}")
        if self.warmup < 0 or self.clip < 0 or self.weight_decay < 0:
            raise WorkshopError("optim.warmup, clip and weight_decay must not be negative")


def learning_rate_factor(config: OptimConfig, total_steps: int) -> Callable[[int], float]:
    """step (0, 1, ...) to the share of `config.lr` used in it."""

    def factor(step: int) -> float:
        if step < config.warmup:
            return (step + 1) / config.warmup
        if config.schedule == "constant" or total_steps <= 0:
            return 1.0
        span = total_steps - config.warmup
        if config.schedule == "wsd":
            span = max(1, round(config.decay_share * total_steps))
        done = (step - (total_steps - span)) / max(1, span)
        done = min(max(done, 0.0), 1.0)
        if config.schedule == "wsd":
            return 1.0 - (1.0 - config.end_lr) * done
        return config.end_lr + (1.0 - config.end_lr) * 0.5 * (1.0 + math.cos(math.pi * done))

    return factor


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices only; fused on GPUs."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decaying = [p for name, p in named if p.ndim >= 2 and "codebook" not in name]
    others = [p for name, p in named if p.ndim < 2 or "codebook" in name]
    groups = [
        {"params": decaying, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    on_gpu = all(p.is_cuda for _, p in named)
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=on_gpu or None)


def ema_decay(decay: float, updates: int) -> float:
    """The decay of the running average after `updates` of them: (1+n)/(10+n) while that is less."""
    return min(decay, (1 + updates) / (10 + updates))

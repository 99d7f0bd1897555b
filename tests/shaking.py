"""Untrained models whose every weight does something: many layers begin at zero."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def shaken_weights(model: Model, by: float = 0.03) -> Model:
    """The model, each of its weights moved at random, by a standard deviation of `by`."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(by * torch.randn_like(p))
    return model

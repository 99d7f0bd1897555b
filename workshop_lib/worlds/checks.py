"""What every dreamed world asks of a prompt and of actions, and where its dice come from."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from workshop_lib.errors import WorkshopError


def check_prompt(frames: Tensor, actions: Tensor) -> None:
    """Raises WorkshopError unless a prompt is uint8 (B, T, H, W, C), T >= 1, with int64 (B, T - 1)
    actions."""
    if frames.ndim != 5 or frames.shape[1] < 1 or frames.dtype != torch.uint8:
        raise WorkshopError(
            f"a prompt's frames must be uint8 (B, T, H, W, C), T >= 1, got {frames.dtype} "
            f"{tuple(frames.shape)}"
        )
    if actions.shape != (len(frames), frames.shape[1] - 1):
        raise WorkshopError(
            f"a prompt of {len(frames)} x {frames.shape[1]} frames needs actions "
            f"({len(frames)}, {frames.shape[1] - 1}), got {tuple(actions.shape)}"
        )


def check_actions(actions: Tensor, num_actions: int) -> None:
    """Raises WorkshopError for actions other than 0 to num_actions - 1."""
    if actions.numel() and (actions.min() < 0 or actions.max() >= num_actions):
        raise WorkshopError(
            f"actions must be 0 to {num_actions - 1}, got {int(actions.min())} to "
            f"{int(actions.max())}"
        )


def check_step(action: Tensor, dreams: int, num_actions: int) -> None:
    """Raises WorkshopError unless there is one action, 0 to num_actions - 1, for each dream."""
    if action.shape != (dreams,):
        raise WorkshopError(f"{dreams} dreams need as many actions, got {tuple(action.shape)}")
    check_actions(action, num_actions)


def dice(seed: int, number: int) -> torch.Generator:
    """Of the draws for a dream's frame: a function of the world's seed and the frame's number."""
    seeds = np.random.SeedSequence([seed, number])
    return torch.Generator().manual_seed(int(seeds.generate_state(1)[0]))

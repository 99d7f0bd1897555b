"""A world whose camera scrolls left, right or up, as somebody chose: what latent actions find."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from workshop_lib.data.actions import JUMP, LEFT, RIGHT
from workshop_lib.data.clip import Clip

SIZE = 32
MOVES = {LEFT: (0, -3), RIGHT: (0, 3), JUMP: (3, 0)}  # action: pixels down and right
MARGIN = 24


def scrolling_clip(count: int, length: int, generator: torch.Generator) -> Clip:
    """`count` clips of `length` frames of 32x32 pixels, of smooth random landscapes."""
    side = SIZE + 2 * MARGIN
    rough = torch.rand(count, 3, side // 4, side // 4, generator=generator)
    land = (255 * F.interpolate(rough, size=(side, side), mode="bicubic").clamp(0, 1)).byte()
    keys = torch.tensor(list(MOVES))
    actions = keys[torch.randint(len(keys), (count, length), generator=generator)]
    frames = torch.stack([_film(land[b], actions[b]) for b in range(count)])
    return Clip(frames, actions, torch.zeros(count, length, dtype=torch.bool))


def _film(land: Tensor, actions: Tensor) -> Tensor:
    """uint8 (T, H, W, C) of a landscape (C, H', W') under actions (T,)."""
    y = x = MARGIN
    frames = []
    for action in actions.tolist():
        frames.append(land[:, y : y + SIZE, x : x + SIZE].permute(1, 2, 0))
        y, x = y + MOVES[action][0], x + MOVES[action][1]
        y, x = min(max(y, 0), 2 * MARGIN), min(max(x, 0), 2 * MARGIN)
    return torch.stack(frames)

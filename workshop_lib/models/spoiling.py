"""A past that is made worse on purpose, so that long dreams find back to real pictures.

A dream drifts: colors shift, the player is lost, the ground crumbles. Trained on real pasts alone,
a network takes each such fault for truth and builds on it. Here pasts have such faults, and what
follows, by which it is trained, has not. It learns to put things right, bit by bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

PLAYER = 3 / 16  # of the picture's height and width; the player fits in, wherever its legs are


def spoil(past: Tensor, share: float) -> Tensor:
    """In that share of the samples (B, k, C, H, W), in [-1, 1], a rectangle, 1/8 to 1/2 of the
    picture high and wide, shows in all frames another place in the sample before; in as many, the
    middle, where the player is, fades into another place of the same picture, by a half or
    wholly; and in as many, each color is stronger or weaker, and lighter or darker, by up to a
    third."""
    if not share:
        return past
    count, device = len(past), past.device
    past = _lose_player(elsewhere(past, share), share)
    tint = (torch.rand(2, count, 1, past.shape[2], 1, 1, device=device) - 0.5) * 2 / 3
    gain, light = tint * (torch.rand(count, 1, 1, 1, 1, device=device) < share)
    return (past * (1 + gain) + light).clamp(-1, 1)


def elsewhere(past: Tensor, share: float) -> Tensor:
    """In that share of the samples (B, k, C, H, W), pixels or tokens, a rectangle, 1/8 to 1/2 of
    the picture high and wide, shows in all frames another place in the sample before."""
    count, device = len(past), past.device
    inside = (torch.rand(count, device=device) < share)[:, None, None]
    for length, shape in ((past.shape[-2], (-1, 1)), (past.shape[-1], (1, -1))):
        extent = (torch.rand(count, device=device) * 3 / 8 + 1 / 8) * length
        first = torch.rand(count, device=device) * (length - extent)
        place = torch.arange(length, device=device)
        covered = (place >= first[:, None]) & (place < (first + extent)[:, None])
        inside = inside & covered.view(count, *shape)
    # Another place: what is always in the middle, the player, would stand there as well.
    by = [int(torch.randint(n // 4, 3 * n // 4 + 1, ())) for n in past.shape[-2:]]
    return torch.where(inside[:, None, None], past.roll((1, *by), dims=(0, -2, -1)), past)


def _lose_player(past: Tensor, share: float) -> Tensor:
    """Another place of the same picture in the middle of the picture, in that share of samples."""
    height, width = past.shape[-2:]
    by = [int(torch.randint(n // 4, 3 * n // 4 + 1, ())) for n in (height, width)]
    middle = torch.zeros(height, width, device=past.device)
    top, left = (round(n * (1 - PLAYER) / 2) for n in (height, width))
    middle[top : height - top, left : width - left] = 1
    count = len(past)
    fading = 0.5 + 0.5 * torch.rand(count, device=past.device)
    fading = fading * (torch.rand(count, device=past.device) < share)
    return past.lerp(past.roll(by, dims=(-2, -1)), fading[:, None, None, None, None] * middle)

"""Rotary position embedding: attention that feels how far apart two tokens are.

Su et al. 2021, "RoFormer", section 3.2: the channels of a query or key form pairs, pair i of a
token at position p is turned by the angle p * frequency_i, and the dot product of two turned
vectors depends on the difference of their positions alone.

Positions and frequencies are arguments, so every variant is a choice of two short vectors: time
(positions 0, 1, 2...), rows and columns of a grid, or pixel coordinates from -1 to 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Rotary(NamedTuple):
    """What `rotate` needs, ready to multiply: float32 tensors whose last axis is a head's channels.

    cos: cosine of each pair's angle, given to both channels of the pair.
    sin: sine of it, negative for the first channel of the pair.
    """

    cos: Tensor
    sin: Tensor


def frequencies(pairs: int, base: float) -> Tensor:
    """float64 (pairs,): base ** (-i / pairs), from 1 radian per step down to nearly 1 / base.

    Su et al. 2021, equation 15, with base 10,000. A small base suits few positions: the slowest
    pair should still turn visibly over the whole length.
    """
    return base ** (-torch.arange(pairs, dtype=torch.float64) / pairs)


def line_angles(positions: Tensor, frequencies: Tensor) -> Tensor:
    """Angles along one axis: positions (L,), frequencies (P,) -> float64 (L, P), radians.

    In float64 because a session of play runs to 100,000 frames, where a float32 product is off
    by more than a hundredth of a radian.
    """
    return positions.to(torch.float64)[:, None] * frequencies.to(torch.float64)


def grid_angles(rows: Tensor, columns: Tensor, frequencies: Tensor) -> Tensor:
    """Axial angles of a grid, row by row: the first half of the pairs turns with the row, the
    second with the column.

    rows: (h,) positions, columns: (w,), frequencies: (P,), used for both -> float64 (h * w, 2 P).
    """
    h, w = len(rows), len(columns)
    by_row = line_angles(rows, frequencies)[:, None].expand(h, w, -1)
    by_column = line_angles(columns, frequencies)[None].expand(h, w, -1)
    return torch.cat([by_row, by_column], dim=-1).flatten(0, 1)


def rotary(angles: Tensor) -> Rotary:
    """Angles (..., P) in radians -> the factors for channels (..., 2 P), pairs side by side."""
    cos, sin = angles.cos().float(), angles.sin().float()
    return Rotary(cos.repeat_interleave(2, dim=-1), torch.stack([-sin, sin], dim=-1).flatten(-2))


def rotate(x: Tensor, factors: Rotary) -> Tensor:
    """Turns the channel pairs (0, 1), (2, 3)... of x (..., 2 P); the factors broadcast to x.

    (a, b) becomes (a cos - b sin, b cos + a sin): Su et al. 2021, equation 34.
    """
    if x.dtype == torch.float32 and x.device.type == "cpu" and not torch.is_grad_enabled():
        # In play: complex numbers turn in one pass over memory, and in half the time.
        turn = torch.complex(factors.cos[..., ::2], factors.sin[..., 1::2])
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * turn).flatten(-2)
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(x * factors.cos, swapped, factors.sin)

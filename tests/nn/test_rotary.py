"""Rotary positions: only distances count, however far from the start."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from workshop_lib.nn.rotary import frequencies, grid_angles, line_angles, rotary, rotate


def scores(q: Tensor, k: Tensor, q_angles: Tensor, k_angles: Tensor) -> Tensor:
    """Dot products of every turned query with every turned key, (L, L)."""
    return rotate(q, rotary(q_angles)) @ rotate(k, rotary(k_angles)).T


@pytest.mark.parametrize(("shift", "error"), [(1, 1e-5), (37, 1e-5), (1_000_000, 1e-5)])
def test_only_the_distance_in_time_counts(shift: int, error: float) -> None:
    q, k = torch.randn(2, 6, 16)
    positions, turns = torch.arange(6), frequencies(8, 10_000.0)
    here = line_angles(positions, turns)
    there = line_angles(positions + shift, turns)
    torch.testing.assert_close(
        scores(q, k, there, there), scores(q, k, here, here), atol=error, rtol=error
    )
    # Control: moving only the keys is felt.
    assert (scores(q, k, here, there) - scores(q, k, here, here)).abs().max() > 0.01


def test_only_the_distance_in_the_grid_counts() -> None:
    q, k = torch.randn(2, 12, 16)
    rows, columns, turns = torch.arange(3), torch.arange(4), frequencies(4, 100.0)
    here = scores(q, k, *[grid_angles(rows, columns, turns)] * 2)
    there = scores(q, k, *[grid_angles(rows + 5, columns - 2, turns)] * 2)
    torch.testing.assert_close(there, here, atol=1e-5, rtol=1e-5)


def test_rows_and_columns_turn_their_own_half_of_the_channels() -> None:
    turns = frequencies(4, 100.0)
    angles = grid_angles(torch.tensor([0, 2]), torch.tensor([0, 1, 5]), turns).unflatten(0, (2, 3))
    assert (angles[0, :, :4] == 0).all() and (angles[:, 0, 4:] == 0).all()
    torch.testing.assert_close(angles[1, 2], torch.cat([2 * turns, 5 * turns]))


def test_rotation_is_that_of_complex_numbers() -> None:
    """Su et al. 2021, equation 12: the pair as a complex number, times e^(i m theta)."""
    x, turns = torch.randn(7, 10), frequencies(5, 10_000.0)
    angles = line_angles(torch.arange(7), turns)
    complex_x = torch.view_as_complex(x.unflatten(-1, (-1, 2)).double())
    expected = torch.view_as_real(complex_x * torch.polar(torch.ones_like(angles), angles))
    torch.testing.assert_close(rotate(x, rotary(angles)), expected.flatten(-2).float())


def test_any_frequencies_and_positions_will_do() -> None:
    """Positions between -1 and 1 with frequencies of many half turns, as for pixels."""
    places = torch.linspace(-1, 1, 8, dtype=torch.float64)
    turns = torch.linspace(1, 128, 4, dtype=torch.float64) * torch.pi
    factors = rotary(grid_angles(places, places, turns))
    x = torch.randn(64, 16)
    turned = rotate(x, factors)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))  # a rotation keeps lengths
    # At either end, -1 and 1, every pair of frequency pi has made half a turn.
    torch.testing.assert_close(turned[0, :2], -x[0, :2], atol=1e-5, rtol=0)

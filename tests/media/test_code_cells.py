"""The picture of what quantizers do to the plane."""

from __future__ import annotations

import numpy as np
import pytest

from workshop_lib.media.token_plots import code_cells


def signs(places: np.ndarray) -> np.ndarray:
    return (places > 0) @ np.array([1, 2])


def test_every_place_has_the_color_of_its_code() -> None:
    cloud = np.array([[0.5, -0.5], [1.5, 1.0]])
    codes = np.array([[1.0, 1.0], [-1.0, -1.0]])
    figure = code_cells({"signs": (signs, codes), "one": (lambda p: 0 * signs(p), None)}, cloud)
    left, right = figure.axes
    cells = left.images[0].get_array()  # row 0 is the lowest
    corners = [tuple(cells[y, x]) for y in (5, 190) for x in (5, 190)]
    assert len(set(corners)) == 4
    for y, x in ((20, 30), (120, 10), (99, 150), (180, 101)):
        above, beyond = y >= 100, x >= 100
        assert tuple(cells[y, x]) == corners[2 * above + beyond]
    assert len({tuple(color) for row in right.images[0].get_array() for color in row}) == 1
    assert np.allclose(left.collections[0].get_offsets(), cloud)
    assert np.allclose(left.collections[1].get_offsets(), codes)
    assert len(right.collections) == 1
    assert left.get_title(loc="left") == "signs"


def test_each_panel_can_have_its_own_points() -> None:
    panels = {"start": (signs, None), "end": (signs, None)}
    clouds = {"start": np.zeros((3, 2)), "end": np.ones((5, 2))}
    figure = code_cells(panels, clouds)
    assert [len(ax.collections[0].get_offsets()) for ax in figure.axes] == [3, 5]
    with pytest.raises(KeyError):
        code_cells(panels, {"start": np.zeros((3, 2))})

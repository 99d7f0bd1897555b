"""Pictures of dreams: what they show is what they were given."""

import numpy as np
import pytest

from workshop_lib.errors import WorkshopError
from workshop_lib.media.plots import QUIET
from workshop_lib.media.rollout_plots import (
    comparison_sheet,
    counterfactual_sheet,
    horizon_plot,
    rollout_film,
)
from workshop_lib.media.sheet import cell_corner


def pictures(*shape, low=0):
    """Pictures of one color each, no two alike."""
    count = int(np.prod(shape))
    colors = low + np.arange(count).reshape(*shape, 1, 1, 1)
    return np.broadcast_to(colors, (*shape, 16, 16, 3)).astype(np.uint8)


def cells(sheet, columns, count, scale=2):
    """The color of each picture of a labeled sheet, in reading order."""
    corners = [cell_corner(n, columns, 16 * scale, 16 * scale, labeled=True) for n in range(count)]
    return [int(sheet[y + 5, x + 5, 0]) for y, x in corners]


def test_the_horizon_plot_draws_every_curve_with_its_band():
    panels = {
        "PSNR": {"mine": ([20, 15, 12], [1, 1, 2]), "copy": ([18, 12, 9], [0, 0, 0])},
        "error": {"mine": ([0.1, 0.2, 0.4], [0.01, 0.01, 0.01])},
    }
    figure = horizon_plot(panels, [1, 4, 8], logarithmic=["error"], limits={"PSNR": (0, 30)})
    left, right = figure.axes
    assert left.lines[0].get_ydata().tolist() == [20, 15, 12]
    assert left.lines[0].get_xdata().tolist() == [1, 4, 8]
    assert left.lines[1].get_color() == QUIET and left.lines[0].get_color() != QUIET
    assert [t.get_text() for t in left.get_legend().get_texts()] == ["mine", "copy"]
    band = left.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (10, 21)
    assert (left.get_yscale(), right.get_yscale()) == ("linear", "log")
    assert left.get_ylim() == (0, 30)


def test_the_comparison_sheet_has_the_real_row_above_the_dreamed():
    real, dreamed = pictures(2, 8), pictures(2, 8, low=100)
    sheet = comparison_sheet(real, dreamed, [1, 4, 8])
    assert cells(sheet, 3, 12) == [0, 3, 7, 100, 103, 107, 8, 11, 15, 108, 111, 115]


def test_the_counterfactual_sheet_goes_key_by_key():
    now = pictures(1, low=200)[0]
    sheet = counterfactual_sheet(now, pictures(2, 3), pictures(2, 3, low=100), [4, 8, 12])
    expected = [200, 0, 1, 2, 200, 100, 101, 102, 200, 3, 4, 5, 200, 103, 104, 105]
    assert cells(sheet, 4, 16) == expected


def test_the_film_shows_the_prompt_twice_and_then_parts():
    real, dreamed = pictures(2, 6), pictures(2, 4, low=100)
    film = rollout_film(real, dreamed, np.full((2, 5), 7), scale=3)
    assert len(film) == 6
    half = film.shape[1] // 2 + 1
    assert [int(frame[5, 5, 0]) for frame in film] == [0, 1, 2, 3, 4, 5]
    assert [int(frame[half + 5, 5, 0]) for frame in film] == [0, 1, 100, 101, 102, 103]
    right = film.shape[2] - 5
    assert [int(frame[5, right, 0]) for frame in film] == [6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize(
    ("draw", "complaint"),
    [
        (lambda: horizon_plot({}, [1]), "no curves"),
        (lambda: horizon_plot({"a": {"b": ([1, 2], [0, 0])}}, [1]), r"b: \(2,\) means"),
        (lambda: comparison_sheet(pictures(1, 4), pictures(1, 3), [1]), "one shape"),
        (lambda: comparison_sheet(pictures(1, 4), pictures(1, 4), [5]), r"horizons \[5\]"),
        (
            lambda: counterfactual_sheet(pictures(1)[0], pictures(2, 2), pictures(2, 3), [4, 8]),
            "must be",
        ),
        (
            lambda: rollout_film(pictures(1, 2), pictures(1, 3), np.zeros((1, 1))),
            "prompt and truth",
        ),
    ],
)
def test_wrong_pictures_are_refused(draw, complaint):
    with pytest.raises(WorkshopError, match=complaint):
        draw()

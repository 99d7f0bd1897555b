"""Pictures of noise say the numbers that they were given."""

from __future__ import annotations

import numpy as np
import pytest

from workshop_lib.errors import WorkshopError
from workshop_lib.media.diffusion_plots import noise_curves, noise_grid


def test_curves_show_both_shares_and_leave_out_ratios_that_there_are_not() -> None:
    alpha, sigma = [1, 0.8, 0.6, 0], [0, 0.6, 0.8, 1]
    figure = noise_curves({"a": (alpha, sigma), "b": ([1, 1, 1], [0, 2, 5])})
    shares = [line.get_ydata().tolist() for line in figure.axes[0].lines]
    assert shares == [alpha, sigma, [1, 1, 1], [0, 2, 5]]
    ratios = [line.get_xydata() for line in figure.axes[1].lines]
    assert np.allclose(ratios[0], [[1 / 3, 0.75], [2 / 3, 4 / 3]])
    assert np.allclose(ratios[1], [[0.5, 2], [1, 5]])


def test_grid_writes_every_level_in_its_place() -> None:
    one, two = np.array([[0, 0.25, 1]]), np.array([[0, 0, 0.5], [1, 0.9, 0.1]])
    figure = noise_grid({"one": one, "two": two}, down="step")
    assert [text.get_text() for text in figure.axes[0].texts] == ["0", ".2", "1"]
    assert [text.get_text() for text in figure.axes[1].texts] == ["0", "0", ".5", "1", ".9", ".1"]
    assert np.array_equal(figure.axes[1].images[0].get_array(), two)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["one", "two"]
    inks = {text.get_text(): text.get_color() for text in figure.axes[1].texts}
    assert inks[".9"] == "white" and inks[".1"] == "black"


def test_bad_input_is_named() -> None:
    with pytest.raises(WorkshopError, match="no schedules"):
        noise_curves({})
    with pytest.raises(WorkshopError, match=r"mine: alpha and sigma .* \(2,\) and \(3,\)"):
        noise_curves({"mine": ([1, 0], [0, 0.5, 1])})
    with pytest.raises(WorkshopError, match="mine: alpha and sigma must not be below 0"):
        noise_curves({"mine": ([1, -1], [0, 1])})
    with pytest.raises(WorkshopError, match="no panels"):
        noise_grid({})
    with pytest.raises(WorkshopError, match="the same T"):
        noise_grid({"a": np.zeros((2, 3)), "b": np.zeros((2, 4))})
    with pytest.raises(WorkshopError, match="the same T"):
        noise_grid({"a": np.zeros(3)})
    with pytest.raises(WorkshopError, match="mine: noise levels must be 0 to 1"):
        noise_grid({"mine": [[0, 1.5]]})

"""The pictures of a scaling study show every run, its floor and its law."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from workshop_lib.media.scaling_plots import floor_plot, scaling_plot


def run(series: str, parameters: int, width: int, floor: float, loss: list[float]) -> dict:
    steps = [1000 // (parameters * n) for n in (3, 2, 1)]
    return {"series": series, "parameters": parameters, "flops_per_step": 10.0 * parameters,
            "width": width, "floor": floor, "steps": steps, "loss": loss}  # fmt: skip


RUNS = [
    run("v", 2, 192, 0.0, [0.9, 0.5, 0.1]),
    run("v", 1, 96, 0.25, [0.9, 0.4, 0.3]),
    run("x", 1, 96, 0.01, [0.9, 0.2, 0.15]),
    run("x", 2, 192, 0.0, [0.9, 0.4, 0.2]),
]
RESULT: dict[str, Any] = {
    "study": {"measure": "v_mse"},
    "runs": RUNS,
    "fits": {"v": {"A": 0.3, "alpha": 1.58, "points": 2}},
}


def marks(ax: Axes) -> dict[tuple[float, float], bool]:
    """Where the marks of runs are, and whether they are filled."""
    single = [line for line in ax.lines if line.get_marker() != "None" and len(line.get_xdata())]
    return {
        tuple(line.get_xydata()[0]): to_rgba(line.get_markerfacecolor()) != to_rgba("white")
        for line in single
    }


def test_every_run_is_a_line_and_floors_that_it_comes_near_are_dotted() -> None:
    ax = scaling_plot(RESULT).axes[0]
    lines = {tuple(line.get_ydata()): line for line in ax.lines if len(line.get_ydata()) == 3}
    for each in RUNS:
        line = lines[tuple(each["loss"])]
        assert np.allclose(line.get_xdata(), np.array(each["steps"]) * each["flops_per_step"])
        assert line.get_linestyle() == {"v": "-", "x": "--"}[each["series"]]
    dotted = [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == ":"]
    assert dotted == [0.25]  # .01 is far below all that was reached
    assert ax.get_ylabel() == "held-out v_mse"


def test_what_was_fitted_is_filled() -> None:
    ax = scaling_plot(RESULT).axes[1]
    assert marks(ax) == {(1, 0.3): True, (2, 0.1): True, (1, 0.15): True, (2, 0.2): False}
    assert all(marks(scaling_plot(RESULT | {"fits": {}}).axes[1]).values())


def test_runs_stand_over_their_width_and_floors_are_lines() -> None:
    ax = floor_plot(RESULT).axes[0]
    assert set(marks(ax)) == {(96, 0.3), (192, 0.1), (96, 0.15), (192, 0.2)}
    floors = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert floors["floor of v"] == [[96, 0.25], [192, 0.0]]
    assert floors["floor of x"] == [[96, 0.01], [192, 0.0]]


def test_studies_without_series_and_floors_are_drawn_as_before() -> None:
    plain = [{key: each[key] for key in ("parameters", "flops_per_step", "steps", "loss")}
             for each in RUNS[:2]]  # fmt: skip
    figure = scaling_plot({"runs": plain})
    assert len(marks(figure.axes[1])) == 2
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["0 k", "0 k"]


@pytest.mark.parametrize("draw", [scaling_plot, floor_plot])
def test_a_picture_can_be_saved(draw: Any, tmp_path: Any) -> None:
    draw(RESULT).savefig(tmp_path / "one.png")
    assert (tmp_path / "one.png").stat().st_size > 10_000

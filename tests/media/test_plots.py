"""Plots: what they show is what they were given."""

import io
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from workshop_lib.data.actions import ACTIONS
from workshop_lib.errors import WorkshopError
from workshop_lib.media import plots


def texts(figure: Figure) -> list[str]:
    """Every text in the figure's axes."""
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def rendered(figure: Figure) -> np.ndarray:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB"))


def test_importing_the_media_room_does_not_load_matplotlib_or_torch() -> None:
    code = (
        "import sys\n"
        "from workshop_lib.media import keys, overlay, picture, plots, sheet, video\n"
        "slow = {'matplotlib', 'torch', 'av', 'IPython'} & set(sys.modules)\n"
        "sys.exit(f'loaded {slow}' if slow else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_action_histogram_shows_the_shares_of_each_policy() -> None:
    figure = plots.action_histogram(
        {"left": np.full((2, 50), 1), "mixed": np.array([7] * 3 + [8] * 1)}
    )
    shares = [[bar.get_width() for bar in ax.patches] for ax in figure.axes]
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["left", "mixed"]
    assert shares[0] == [100.0 if i == 1 else 0.0 for i in range(15)]
    assert shares[1][7:9] == [75.0, 25.0] and sum(shares[1]) == 100
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [a.name for a in ACTIONS]


def test_histograms_count_every_value_on_shared_bins() -> None:
    short, long = np.arange(10, 60), np.arange(200, 1000)
    figure = plots.episode_lengths({"short": short, "long": long})
    counts = [sum(bar.get_height() for bar in ax.patches) for ax in figure.axes]
    assert counts == [50, 800]
    edges = [[bar.get_x() for bar in ax.patches] for ax in figure.axes]
    assert edges[0] == edges[1]
    medians = [ax.lines[0].get_xdata()[0] for ax in figure.axes]
    assert medians == [np.median(short), np.median(long)]


def test_coverage_labels_every_curve_without_overlap() -> None:
    x = np.arange(0, 100, 10)
    figure = plots.coverage_plot({"a": (x, x), "b": (x, x * 1.001), "c": (x, x * 0.1)})
    curves = [line.get_ydata() for line in figure.axes[0].lines]
    assert np.array_equal(curves[0], x) and np.allclose(curves[2], x * 0.1)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    assert not any(one.overlaps(two) for i, one in enumerate(boxes) for two in boxes[:i])


def test_frame_strip_puts_each_action_between_the_frame_before_and_the_one_after() -> None:
    frames = np.stack([np.full((64, 64, 3), 60 * t, dtype=np.uint8) for t in range(4)])
    figure = plots.frame_strip(frames, [7, 1, 5], start=20)
    ax = figure.axes[0]
    place = {text.get_text(): text.get_position()[0] for text in ax.texts if text.get_text()}
    order = ["frame 20", "right", "frame 21", "left", "frame 22", "jump", "frame 23"]
    assert [place[name] for name in order] == sorted(place[name] for name in order)
    assert place["actions[21]"] == place["left"]
    shown = [image.get_array() for image in ax.images if image.get_array().shape[:2] == (64, 64)]
    assert np.array_equal(np.stack(shown), frames)


def test_frame_strip_with_as_many_actions_as_frames_leads_out_of_the_picture() -> None:
    frames = np.zeros((2, 64, 64, 3), dtype=np.uint8)
    assert "left" not in texts(plots.frame_strip(frames, [7]))
    figure = plots.frame_strip(frames, [7, 1])
    place = {text.get_text(): text.get_position()[0] for text in figure.axes[0].texts}
    assert place["left"] > place["frame 1"]


def test_every_plot_draws_something_inside_its_picture() -> None:
    x = np.arange(1, 50)
    for figure in (
        plots.action_histogram(x % 15),
        plots.episode_lengths(x),
        plots.compare_distributions({"by clip": x, "by level": 2 * x}, "distance"),
        plots.coverage_plot({"only": (x, x)}),
        plots.frame_strip(np.zeros((3, 64, 80, 3), dtype=np.uint8), [7, 9, 14]),
    ):
        picture = rendered(figure)
        assert picture.std() > 5
        # Nothing is cut off: the outermost pixels are blank.
        edges = [picture[0], picture[-1], picture[:, 0], picture[:, -1]]
        assert all((edge == 255).all() for edge in edges)


def test_plots_leave_no_open_figure_and_no_changed_setting() -> None:
    import matplotlib.pyplot as plt

    before, opened = dict(plt.rcParams), plt.get_fignums()
    plots.episode_lengths([1, 2, 3])
    assert dict(plt.rcParams) == before and plt.get_fignums() == opened


def test_use_style_sets_the_palette() -> None:
    import matplotlib.pyplot as plt

    with plt.rc_context():
        plots.use_style()
        figure, ax = plt.subplots()
        lines = ax.plot(np.eye(3))
        plt.close(figure)
    assert tuple(line.get_color() for line in lines) == plots.PALETTE[:3]


def test_bad_input_is_named() -> None:
    frames = np.zeros((3, 64, 64, 3), dtype=np.uint8)
    with pytest.raises(WorkshopError, match=r"runner: actions must be integers from 0 to 14"):
        plots.action_histogram({"runner": [3, 15]})
    with pytest.raises(WorkshopError, match="no actions"):
        plots.action_histogram([])
    with pytest.raises(WorkshopError, match="finite"):
        plots.episode_lengths({"random": [np.nan]})
    with pytest.raises(WorkshopError, match="curve 'a'"):
        plots.coverage_plot({"a": ([1, 2], [1])})
    for empty in (plots.coverage_plot, plots.episode_lengths, plots.action_histogram):
        with pytest.raises(WorkshopError, match="nothing to plot"):
            empty({})
    with pytest.raises(WorkshopError, match="need 3 or 2 actions"):
        plots.frame_strip(frames, [1])
    with pytest.raises(WorkshopError, match="0 to 14"):
        plots.frame_strip(frames, [1, 99])

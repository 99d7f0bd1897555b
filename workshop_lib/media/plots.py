"""The notebooks' plots in one calm style. Every function returns a matplotlib Figure.

matplotlib is imported when a plot is drawn and not before: it takes most of a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from workshop_lib.data.actions import ACTIONS, NOTHING, NUM_ACTIONS
from workshop_lib.errors import WorkshopError
from workshop_lib.media.keys import PROCGEN_KEYS, keys_picture
from workshop_lib.media.picture import checked_frames

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colors (2008), told apart with every common color blindness; yellow is left out
# because it is too pale on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
TEXT, QUIET, GRID = "#333333", "#9AA0A6", "#E6E8EB"

_STYLE: dict[str, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 110,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": TEXT,
    "axes.titlecolor": TEXT,
    "axes.edgecolor": QUIET,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "text.color": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "lines.linewidth": 2.2,
    "legend.frameon": False,
    "image.interpolation": "nearest",
}


def use_style() -> None:
    """Sets the style for a learner's own matplotlib plots; the plots here always have it."""
    import matplotlib.pyplot as plt

    plt.rcParams.update(_style())


def action_histogram(actions: ArrayLike | Mapping[str, ArrayLike]) -> Figure:
    """How often each of Procgen's 15 actions was pressed, in percent, one panel per policy.

    actions: int of any shape, 0 to 14; or several of them by name. The actions that do nothing
    of their own in CoinRun are gray.

    Raises WorkshopError for actions out of range, or none at all.
    """
    panels = actions if isinstance(actions, Mapping) else {"": actions}
    if not panels:
        raise WorkshopError("nothing to plot: no actions were given")
    shares = {name: _action_shares(values, name) for name, values in panels.items()}
    with figure_with_axes(
        max(4.5, 2.6 * len(panels) + 1), 4.2, columns=len(panels), sharey=True
    ) as drawn:
        figure, axes = drawn
        names = [action.name for action in ACTIONS]
        idle = [a.merged == NOTHING and a.index != NOTHING for a in ACTIONS]
        longest = max(share.max() for share in shares.values())
        for i, (name, share) in enumerate(shares.items()):
            colors = [QUIET if gray else PALETTE[i % len(PALETTE)] for gray in idle]
            axes[i].barh(np.arange(NUM_ACTIONS), share, color=colors)
            for y, value in enumerate(share):
                text = "<1" if 0 < value < 0.5 else f"{value:.0f}"
                axes[i].text(value + longest * 0.02, y, text, va="center", fontsize=9)
            axes[i].set(title=name, xlabel="% of frames", xlim=(0, longest * 1.15))
            axes[i].grid(visible=False, axis="y")
        axes[0].set_yticks(np.arange(NUM_ACTIONS), names)
        axes[0].invert_yaxis()
    return figure


def episode_lengths(lengths: ArrayLike | Mapping[str, ArrayLike]) -> Figure:
    """How long episodes are: a histogram per policy, with the median marked.

    lengths: frames per episode, of any shape; or several of them by name.

    Raises WorkshopError where there are none.
    """
    return compare_distributions(lengths, "frames in an episode", "episodes")


def compare_distributions(
    values: ArrayLike | Mapping[str, ArrayLike], xlabel: str, counted: str = "count", bins: int = 30
) -> Figure:
    """Histograms one above the other on the same bins, the median marked in each.

    values: numbers of any shape, or several sets of them by name. counted: what is counted, for
    the vertical axis.

    Raises WorkshopError for an empty set or numbers that are not finite.
    """
    panels = values if isinstance(values, Mapping) else {"": values}
    sets = {name: _finite(each, name) for name, each in panels.items()}
    if not sets:
        raise WorkshopError("nothing to plot: no values were given")
    edges = np.histogram_bin_edges(np.concatenate(list(sets.values())), bins).tolist()
    height = 1.1 + 1.5 * len(sets)
    with figure_with_axes(6.5, max(3.0, height), rows=len(sets), sharex=True) as (figure, axes):
        for i, (name, each) in enumerate(sets.items()):
            axes[i].hist(each, edges, color=PALETTE[i % len(PALETTE)], edgecolor="white", lw=0.5)
            median = float(np.median(each))
            axes[i].axvline(median, color=TEXT, lw=1.2, ls=(0, (4, 3)))
            axes[i].set_title(name)
            axes[i].set_title(f"median {median:.4g}", loc="right", weight="normal", fontsize=10)
            axes[i].set_ylabel(counted)
        axes[-1].set_xlabel(xlabel)
    return figure


def coverage_plot(
    curves: Mapping[str, tuple[ArrayLike, ArrayLike]],
    xlabel: str = "frames recorded",
    ylabel: str = "distinct places seen",
) -> Figure:
    """Growing curves, such as what each policy has seen of the game, labeled at their ends.

    curves: (x, y) by name, each of the same length.

    Raises WorkshopError for no curves or x and y of different lengths.
    """
    if not curves:
        raise WorkshopError("nothing to plot: no curves were given")
    checked = {name: (np.asarray(x), np.asarray(y)) for name, (x, y) in curves.items()}
    for name, (x, y) in checked.items():
        if x.shape != y.shape or x.ndim != 1 or x.size == 0:
            raise WorkshopError(f"curve {name!r}: x {x.shape} and y {y.shape} must be (n,), n > 0")
    with figure_with_axes(7, 4) as (figure, axes):
        ax = axes[0]
        top = max(float(y.max()) for _, y in checked.values())
        ends = [float(y[-1]) for _, y in checked.values()]
        heights = _spread(ends, gap=0.065 * top)
        right = max(float(x.max()) for x, _ in checked.values())
        for i, (name, (x, y)) in enumerate(checked.items()):
            color = PALETTE[i % len(PALETTE)]
            ax.plot(x, y, color=color)
            ax.annotate(
                name, (right, heights[i]), (8, 0), textcoords="offset points", va="center",
                color=color, weight="bold", annotation_clip=False,
            )  # fmt: skip
        ax.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, right), ylim=(0, top * 1.1))
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.yaxis.set_major_formatter("{x:,.0f}")
    return figure


def frame_strip(frames: ArrayLike, actions: ArrayLike, start: int = 0) -> Figure:
    """How frames and actions belong together: frames in a row, the action on the arrow between.

    frames: uint8 (T, H, W, 3). actions: int (T,) or (T-1,), 0 to 14. `actions[t]` was pressed AFTER
    seeing frame t and led to frame t+1, so it stands on the arrow from t to t+1; with T actions
    the last arrow leads out of the picture. 3 to 8 frames read well.
    start: the number of the first frame.

    Raises WorkshopError for wrong frames or actions.
    """
    frames = checked_frames(frames)
    T, H, W, _ = frames.shape
    indices = np.asarray(actions)
    if indices.shape not in ((T,), (T - 1,)):
        raise WorkshopError(f"need {T} or {T - 1} actions for {T} frames, got {indices.shape}")
    indices = _checked_actions(indices, "") if indices.size else indices
    step = 1.75  # one frame and one arrow, in frame widths
    total = (T - 1) * step + 1 + (0.75 if len(indices) == T else 0)
    with figure_with_axes(1.1 * total, 1.1 * (H / W + 0.38)) as (figure, axes):
        ax = axes[0]
        ax.axis("off")
        for t, frame in enumerate(frames):
            ax.imshow(frame, extent=(t * step, t * step + 1, 0, H / W))
            ax.text(t * step + 0.5, -0.06, f"frame {start + t}", ha="center", va="top")
        for t, index in enumerate(indices.tolist()):
            _draw_action_arrow(ax, t * step + 1, H / W / 2, index, start + t)
        ax.set(xlim=(-0.02, total + 0.02), ylim=(-0.25, H / W + 0.05), aspect="equal")
    return figure


def _draw_action_arrow(ax: Axes, left: float, middle: float, index: int, t: int) -> None:
    """An arrow 0.75 wide from x=left, its keys above it and the action's name below."""
    ax.annotate(
        "", (left + 0.71, middle), (left + 0.04, middle),
        arrowprops={"arrowstyle": "-|>", "color": TEXT, "lw": 1.8, "shrinkA": 0, "shrinkB": 0},
    )  # fmt: skip
    keys = np.asarray(keys_picture(PROCGEN_KEYS[index], 48))
    width = 0.44 * keys.shape[1] / (3 * 48)
    height = width * keys.shape[0] / keys.shape[1]
    x, y = left + 0.375 - width / 2, middle + 0.1
    ax.imshow(keys, extent=(x, x + width, y, y + height), interpolation="antialiased")
    ax.text(left + 0.375, middle - 0.08, ACTIONS[index].name, ha="center", va="top", fontsize=9)
    ax.text(
        left + 0.375, middle - 0.27, f"actions[{t}]", ha="center", va="top", fontsize=8, color=QUIET
    )


def _style() -> Any:
    from cycler import cycler

    return {**_STYLE, "axes.prop_cycle": cycler(color=PALETTE)}


@contextmanager
def figure_with_axes(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """A figure of `width` by `height` inches in the style, and its axes as a flat list.

    It is closed at the end: a notebook then shows it once, where it is a cell's result, and not
    a second time by itself. A closed figure can still be shown, changed and saved.
    """
    import matplotlib.pyplot as plt

    with plt.rc_context(_style()):
        figure, axes = plt.subplots(
            rows, columns, figsize=(width, height), squeeze=False, **options
        )
        plt.close(figure)
        yield figure, list(axes.flat)


def _checked_actions(actions: ArrayLike, name: str) -> np.ndarray:
    indices = np.asarray(actions).reshape(-1)
    label = f"{name}: " if name else ""
    if indices.size == 0:
        raise WorkshopError(f"{label}no actions to plot")
    if indices.dtype.kind not in "iu" or indices.min() < 0 or indices.max() >= NUM_ACTIONS:
        raise WorkshopError(
            f"{label}actions must be integers from 0 to {NUM_ACTIONS - 1}, got {indices.dtype} "
            f"from {indices.min()} to {indices.max()}"
        )
    return indices


def _action_shares(actions: ArrayLike, name: str) -> np.ndarray:
    """Percent of each action: float (15,)."""
    indices = _checked_actions(actions, name)
    return 100 * np.bincount(indices, minlength=NUM_ACTIONS) / indices.size


def _finite(values: ArrayLike, name: str) -> np.ndarray:
    numbers = np.asarray(values, dtype=np.float64).reshape(-1)
    if numbers.size == 0 or not np.isfinite(numbers).all():
        raise WorkshopError(f"{name or 'values'}: need one or more finite numbers to plot")
    return numbers


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """The heights, moved up where needed so that no two labels lie closer than `gap`."""
    result, lowest = list(heights), -np.inf
    for i in np.argsort(heights):
        result[i] = max(heights[i], lowest)
        lowest = result[i] + gap
    return result

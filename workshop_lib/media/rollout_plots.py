"""Pictures of what worlds dream, beside what really came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from workshop_lib.errors import WorkshopError
from workshop_lib.media.overlay import draw_keys, side_by_side, stack
from workshop_lib.media.picture import checked_frames
from workshop_lib.media.plots import PALETTE, QUIET, figure_with_axes
from workshop_lib.media.sheet import contact_sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONTROLS = ("copy", "chance")  # curves whose names begin so are gray and dashed


def horizon_plot(
    panels: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]],
    horizons: ArrayLike,
    logarithmic: Sequence[str] = (),
    limits: Mapping[str, tuple[float, float]] | None = None,
) -> Figure:
    """How a quantity goes with the horizon: a panel for each, a line for each world or control.

    panels: by what is measured, such as "PSNR, dB", curves by name. A curve is its means and half
        its 95% intervals, each (h,); the band shows them. Controls (names that begin with "copy"
        or "chance") are gray and dashed.
    horizons: (h,), frames after the prompt.
    logarithmic: the panels with a logarithmic axis. limits: where a panel's axis begins and ends.

    Raises WorkshopError for no curves, or one of another length than the horizons.
    """
    if not panels or not all(panels.values()):
        raise WorkshopError("nothing to plot: no curves were given")
    from matplotlib.ticker import MaxNLocator

    x = np.asarray(horizons)
    with figure_with_axes(4.6 * len(panels), 3.6, columns=len(panels)) as (figure, axes):
        for ax, (what, curves) in zip(axes, panels.items(), strict=True):
            for i, (name, (mean, half)) in enumerate(curves.items()):
                y, dy = np.asarray(mean, dtype=float), np.asarray(half, dtype=float)
                if y.shape != x.shape or dy.shape != x.shape:
                    raise WorkshopError(f"{name}: {y.shape} means for {x.shape} horizons")
                control = name.startswith(CONTROLS)
                color = QUIET if control else PALETTE[i % len(PALETTE)]
                ax.plot(x, y, "--" if control else "-", color=color, label=name)
                ax.fill_between(x, y - dy, y + dy, color=color, alpha=0.15, lw=0)
            ax.set(xlabel="frames after the prompt", title=what)
            if what in logarithmic:
                ax.set_yscale("log")
            if limits and what in limits:
                ax.set_ylim(*limits[what])
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0].legend(fontsize=9)
    return figure


def comparison_sheet(
    real: ArrayLike, dreamed: ArrayLike, horizons: Sequence[int], scale: int = 2
) -> np.ndarray:
    """Real pictures above the dreamed ones at some horizons, two rows for each clip.

    real, dreamed: uint8 (B, T, H, W, 3), frame t being t + 1 frames after the prompt.
    horizons: 1 to T.

    Returns uint8 (H', W', 3).

    Raises WorkshopError for horizons that the videos do not reach, or frames of the wrong kind.
    """
    truth, dream = np.asarray(real), np.asarray(dreamed)
    if truth.shape != dream.shape or not 1 <= min(horizons) <= max(horizons) <= truth.shape[1]:
        raise WorkshopError(
            f"real {truth.shape} and dreamed {dream.shape} must be videos of one shape that reach "
            f"horizons {list(horizons)}"
        )
    at = [horizon - 1 for horizon in horizons]
    rows = np.stack([truth[:, at], dream[:, at]], axis=1)  # B, 2, columns, H, W, 3
    labels = [f"{who} {h}" for _ in truth for who in ("real", "dream") for h in horizons]
    return contact_sheet(rows.reshape(-1, *rows.shape[-3:]), len(at), labels, scale)


def counterfactual_sheet(
    now: ArrayLike, real: ArrayLike, dreamed: ArrayLike, horizons: Sequence[int], scale: int = 2
) -> np.ndarray:
    """One moment, two keys: real LEFT, dreamed LEFT, real RIGHT and dreamed RIGHT, row by row.

    now: uint8 (H, W, 3), the moment. real, dreamed: uint8 (2, h, H, W, 3), LEFT and RIGHT at the
        horizons.

    Returns uint8 (H', W', 3).

    Raises WorkshopError for pictures that are not of these shapes.
    """
    start = checked_frames(np.asarray(now)[None], "now")
    expected = (2, len(horizons), *start.shape[1:])
    if not np.shape(real) == np.shape(dreamed) == expected:
        raise WorkshopError(
            f"real and dreamed must be {expected}, got {np.shape(real)} and {np.shape(dreamed)}"
        )
    branches = np.stack([np.asarray(real), np.asarray(dreamed)], axis=1)  # key, who, h, H, W, 3
    rows = [frame for row in branches.reshape(4, *branches.shape[2:]) for frame in (*start, *row)]
    labels = [
        text
        for key in ("left", "right")
        for who in ("real", "dream")
        for text in ("now", *(f"{who} {key} {h}" for h in horizons))
    ]
    return contact_sheet(np.stack(rows), 1 + len(horizons), labels, scale)


def rollout_film(
    real: ArrayLike, dreamed: ArrayLike, actions: ArrayLike, scale: int = 3
) -> np.ndarray:
    """Clips side by side, what really came above what was dreamed, with the keys lit.

    real: uint8 (B, P + K, H, W, 3), prompt and truth. dreamed: uint8 (B, K, H, W, 3).
    actions: int (B, P + K - 1), 0 to 14.

    Returns uint8 (P + K, H', W', 3).

    Raises WorkshopError for shapes that do not fit each other.
    """
    truth, dream, pressed = np.asarray(real), np.asarray(dreamed), np.asarray(actions)
    P = truth.shape[1] - dream.shape[1]
    if P < 0 or len(truth) != len(dream):
        raise WorkshopError(f"real {truth.shape} must be prompt and truth of dreamed {dream.shape}")
    below = np.concatenate([truth[:, :P], dream], axis=1)
    rows = []
    for who, videos in (("real", truth), ("dream", below)):
        captions = ["prompt"] * P + [f"{who} {k + 1}" for k in range(dream.shape[1])]
        drawn = [draw_keys(v, a, scale, captions) for v, a in zip(videos, pressed, strict=True)]
        rows.append(side_by_side(drawn))
    return stack(rows)

"""Several worlds in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from workshop_lib.errors import WorkshopError
from workshop_lib.media.plots import PALETTE, QUIET, figure_with_axes
from workshop_lib.media.rollout_plots import CONTROLS
from workshop_lib.media.sheet import contact_sheet

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = tuple[Sequence[float], Sequence[float]]  # horizons, and the value there
CLOSENESS, SHARPNESS, STEERING = "PSNR, dB", "sharpness, 1 is real", "LEFT told from RIGHT"


@dataclass(frozen=True)
class Pictured:
    """A world as it is drawn: curves by panel, and its speed in milliseconds a frame."""

    curves: Mapping[str, Curve]
    milliseconds: float


def comparison_figure(worlds: Mapping[str, Pictured]) -> Figure:
    """Closeness to the truth, sharpness and steering against the horizon; speed against closeness.

    A panel that no world has a curve for is left out. Controls (names that begin with "copy") are
    gray and dashed.

    Raises WorkshopError for no worlds.
    """
    if not worlds:
        raise WorkshopError("nothing to plot: no worlds were given")
    asked = (CLOSENESS, SHARPNESS, STEERING)
    panels = [p for p in asked if any(p in world.curves for world in worlds.values())]
    count = len(panels) + 1
    with figure_with_axes(3.9 * count, 3.6, columns=count) as (figure, axes):
        for i, (name, world) in enumerate(worlds.items()):
            control = name.startswith(CONTROLS)
            color, line = (QUIET, "--") if control else (PALETTE[i % len(PALETTE)], "-")
            for ax, panel in zip(axes, panels, strict=False):
                if panel in world.curves:
                    ax.plot(*world.curves[panel], line, color=color, label=name)
            if CLOSENESS in world.curves and not control:
                mean = float(np.mean(world.curves[CLOSENESS][1]))
                axes[-1].plot(world.milliseconds, mean, "o", color=color)
        for ax, panel in zip(axes, panels, strict=False):
            ax.set(xlabel="frames after the prompt", title=panel)
        if STEERING in panels:
            axes[panels.index(STEERING)].set_ylim(0.4, 1.02)
            axes[panels.index(STEERING)].axhline(0.5, color=QUIET, ls=":", lw=1)
        axes[-1].set(xlabel="milliseconds a frame", title="mean PSNR against time")
        axes[-1].set_xlim(left=0)
        axes[0].legend(fontsize=8)
    return figure


def worlds_sheet(
    real: ArrayLike, dreams: Mapping[str, ArrayLike], horizons: Sequence[int], scale: int = 2
) -> np.ndarray:
    """What really came, and below it what each world dreamed, a row each.

    real and each dream: uint8 (T, H, W, 3), frame t being t + 1 frames after the prompt.
    horizons: 1 to T.

    Returns uint8 (H', W', 3).

    Raises WorkshopError for horizons that the videos do not reach.
    """
    rows = {"real": np.asarray(real), **{name: np.asarray(d) for name, d in dreams.items()}}
    shortest = min(map(len, rows.values()))
    if not horizons or min(horizons) < 1 or max(horizons) > shortest:
        raise WorkshopError(f"horizons must be 1 to {shortest}, got {list(horizons)}")
    pictures = [video[h - 1] for video in rows.values() for h in horizons]
    labels = [f"{name} {h}" for name in rows for h in horizons]
    return contact_sheet(np.stack(pictures), len(horizons), labels, scale)

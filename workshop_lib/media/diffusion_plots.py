"""Pictures of noise: schedules, and which frame has how much of it at which step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from workshop_lib.errors import WorkshopError
from workshop_lib.media.plots import PALETTE, figure_with_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DARK = 0.55  # of the noise scale, from which on numbers are set in white


def noise_curves(schedules: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> Figure:
    """Noise schedules: the shares of picture and noise on the way, and their ratio.

    schedules: by name, alpha and sigma (n,) at evenly spaced moments from no noise to the most.

    Raises WorkshopError for none, for alpha and sigma of different lengths or fewer than two, and
    for values below 0.
    """
    if not schedules:
        raise WorkshopError("nothing to plot: no schedules were given")
    with figure_with_axes(9.8, 3.6, columns=2) as (figure, axes):
        for i, (name, (alphas, sigmas)) in enumerate(schedules.items()):
            alpha, sigma = np.asarray(alphas, dtype=float), np.asarray(sigmas, dtype=float)
            if alpha.shape != sigma.shape or alpha.ndim != 1 or len(alpha) < 2:
                raise WorkshopError(
                    f"{name}: alpha and sigma must be two or more numbers each, got shapes "
                    f"{alpha.shape} and {sigma.shape}"
                )
            if min(alpha.min(), sigma.min()) < 0:
                raise WorkshopError(f"{name}: alpha and sigma must not be below 0")
            way = np.linspace(0, 1, len(alpha))
            axes[0].plot(way, alpha, color=PALETTE[i], label=name)
            axes[0].plot(way, sigma, "--", color=PALETTE[i])
            inside = (alpha > 0) & (sigma > 0)
            axes[1].plot(way[inside], sigma[inside] / alpha[inside], color=PALETTE[i], label=name)
        axes[0].set(xlabel="the way from clean to noise", title="picture (line) and noise (dashes)")
        axes[1].set(xlabel="the way from clean to noise", title="noise over picture", yscale="log")
        axes[1].set_ylim(0.003, 300)
        axes[0].legend(fontsize=9)
    return figure


def noise_grid(panels: Mapping[str, ArrayLike], down: str = "") -> Figure:
    """How noisy every frame of a video is, one panel for each way to train or play.

    panels: by name, float (rows, T) from 0, clean, to 1, pure noise; a row for each clip, or for
        each step of a sampler. All have as many frames. down: what the rows are.

    Raises WorkshopError for no panels, wrong shapes, and values outside 0 to 1.
    """
    if not panels:
        raise WorkshopError("nothing to plot: no panels were given")
    grids = {name: np.asarray(levels, dtype=float) for name, levels in panels.items()}
    columns = {grid.shape[-1] if grid.ndim == 2 else 0 for grid in grids.values()}
    if len(columns) > 1 or 0 in columns:
        shapes = ", ".join(str(grid.shape) for grid in grids.values())
        raise WorkshopError(f"panels must be (rows, T) with the same T, got {shapes}")
    for name, grid in grids.items():
        if grid.size == 0 or grid.min() < 0 or grid.max() > 1:
            raise WorkshopError(f"{name}: noise levels must be 0 to 1, and one or more")
    rows = max(len(grid) for grid in grids.values())
    width = 0.36 * columns.pop() + 0.7
    with figure_with_axes(width * len(grids), 0.36 * rows + 1.2, columns=len(grids)) as drawn:
        figure, axes = drawn
        for ax, (name, grid) in zip(axes, grids.items(), strict=True):
            ax.imshow(grid, cmap="Greys", vmin=0, vmax=1.2, aspect="equal")
            for (y, x), level in np.ndenumerate(grid):
                ink = "white" if level > DARK else "black"
                text = f"{level:.1f}".removeprefix("0") if 0 < level < 1 else f"{level:.0f}"
                ax.text(x, y, text, ha="center", va="center", fontsize=8, color=ink)
            ax.set_title(name, fontsize=10)
            ax.set(xlabel="frame", ylabel=down if ax is axes[0] else "")
            ax.set_xticks(range(grid.shape[1]), [str(t) for t in range(1, grid.shape[1] + 1)])
            ax.set_yticks([])
            ax.grid(visible=False)
    return figure

"""Pictures of tokens: which code stands where, and how often each is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from workshop_lib.errors import WorkshopError
from workshop_lib.media.picture import checked_frames
from workshop_lib.media.plots import PALETTE, QUIET, figure_with_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NUMBERED = 256  # tokens in a map; more would be too small to read


def token_map(frame: ArrayLike, tokens: ArrayLike) -> Figure:
    """A frame beside its tokens: the same code has the same color everywhere.

    frame: uint8 (H, W, 3). tokens: int (h, w), their numbers written in.

    Raises WorkshopError for a frame or tokens of the wrong shape.
    """
    picture = checked_frames(np.asarray(frame)[None], "frame")[0]
    codes = np.asarray(tokens)
    if codes.ndim != 2 or codes.dtype.kind not in "iu":
        raise WorkshopError(f"tokens must be integers (h, w), got {codes.dtype} {codes.shape}")
    h, w = codes.shape
    with figure_with_axes(9, 4.6, columns=2) as (figure, axes):
        axes[0].imshow(picture)
        axes[1].imshow(_colors(codes))
        axes[0].set_title("frame")
        axes[1].set_title(f"its {h * w} tokens")
        for y in range(h if h * w <= MOST_NUMBERED else 0):
            for x in range(w):
                axes[1].text(x, y, str(codes[y, x]), ha="center", va="center", fontsize=60 / h)
        for ax in axes:
            ax.set_xticks([])
            ax.set_yticks([])
            ax.grid(False)
    return figure


def codebook_histogram(counts: Sequence[int] | ArrayLike) -> Figure:
    """How often each code was used, the most used first; unused codes leave a gap at the right.

    counts: int (K,).

    Raises WorkshopError if nothing was counted.
    """
    array = np.sort(np.asarray(counts))[::-1]
    if array.ndim != 1 or array.sum() <= 0:
        raise WorkshopError(f"counts must be (K,) with at least one use, got shape {array.shape}")
    share = array / array.sum()
    with figure_with_axes(8, 3.2) as (figure, axes):
        ax = axes[0]
        ax.fill_between(np.arange(len(share)), share, step="mid", color=PALETTE[0])
        ax.axhline(1 / len(share), color=QUIET, lw=1.2, ls="--")
        ax.set(xlabel="codes, most used first", ylabel="share of all tokens", xlim=(0, len(share)))
        ax.set_title(
            f"{int((array > 0).sum())} of {len(array)} codes are used (dashed: all equally)"
        )
    return figure


def code_cells(
    panels: Mapping[str, tuple[Callable[[np.ndarray], ArrayLike], ArrayLike | None]],
    points: ArrayLike | Mapping[str, ArrayLike],
    limit: float = 2.0,
) -> Figure:
    """What quantizers do to the plane: every place has the color of the code it is given.

    panels: by title, a function from places float (n, 2) to their tokens int (n,), and the codes
        themselves (K, 2), drawn as black dots, or None.
    points: float (n, 2), drawn over all panels; or those of each panel, by its title.
    limit: the panels reach from -limit to limit.
    """
    side = np.linspace(-limit, limit, 200)
    places = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2).astype(np.float32)
    with figure_with_axes(3.3 * len(panels), 3.5, columns=len(panels)) as (figure, axes):
        for ax, (title, (assign, codes)) in zip(axes, panels.items(), strict=True):
            cells = np.asarray(assign(places)).reshape(200, 200)
            extent = (-limit, limit, -limit, limit)
            ax.imshow(_colors(cells), extent=extent, origin="lower", aspect="equal")
            cloud = np.asarray(points[title] if isinstance(points, Mapping) else points)
            ax.scatter(cloud[:, 0], cloud[:, 1], s=5, color="#5A6068", lw=0)
            if codes is not None:
                x, y = np.asarray(codes).T
                ax.scatter(x, y, s=34, color="black", edgecolor="white", lw=0.8, zorder=3)
            ax.set(xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[], title=title)
            ax.grid(visible=False)
    return figure


def _colors(codes: np.ndarray) -> np.ndarray:
    """A fixed pale color for each code: float (h, w, 3)."""
    generator = np.random.default_rng(0)
    table = 0.55 + 0.45 * generator.random((int(codes.max()) + 1, 3))
    return table[codes]

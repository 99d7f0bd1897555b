"""Pictures of tokens: which code stands where, and how often each is used."""

from __future__ import annotations

from collections.abc import Sequence
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


def _colors(codes: np.ndarray) -> np.ndarray:
    """A fixed pale color for each code: float (h, w, 3)."""
    generator = np.random.default_rng(0)
    table = 0.55 + 0.45 * generator.random((int(codes.max()) + 1, 3))
    return table[codes]

"""Pictures of masks: how many tokens are hidden when, and how a frame comes out from under them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from workshop_lib.errors import WorkshopError
from workshop_lib.media.picture import checked_frames
from workshop_lib.media.plots import PALETTE, figure_with_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MASK, EDGE = (176, 180, 196), (150, 154, 172)  # a hidden patch, and the line around it


def cover(frames: ArrayLike, hidden: ArrayLike) -> np.ndarray:
    """The frames with the patches of hidden tokens covered in gray.

    frames: uint8 (T, H, W, 3). hidden: bool (T, h, w), True where a token is masked; h and w
        divide H and W.

    Returns uint8 (T, H, W, 3).

    Raises WorkshopError for frames or masks of the wrong shape or type.
    """
    pictures, masks = checked_frames(frames).copy(), np.asarray(hidden)
    T, H, W, _ = pictures.shape
    if masks.ndim != 3 or masks.dtype != bool or len(masks) != T:
        raise WorkshopError(
            f"hidden must be bool ({T}, h, w), one map per frame, got {masks.dtype} {masks.shape}"
        )
    h, w = masks.shape[1:]
    if H % h or W % w:
        raise WorkshopError(f"{h} by {w} tokens do not divide frames of {H} by {W} pixels")
    patch = np.full((H // h, W // w, 3), MASK, dtype=np.uint8)
    patch[0] = patch[-1] = patch[:, 0] = patch[:, -1] = EDGE
    covered = masks.repeat(H // h, axis=1).repeat(W // w, axis=2)
    pictures[covered] = np.tile(patch, (h, w, 1))[np.nonzero(covered)[1:]]
    return pictures


def unmasking_pictures(frame: ArrayLike, stages: ArrayLike, mask_id: int) -> np.ndarray:
    """A frame coming out from under its masks, one picture for each stage.

    frame: uint8 (H, W, 3), as it is in the end. stages: int (S, h, w), its tokens after each
        step, mask_id where they are still masked.

    Returns uint8 (S, H, W, 3).

    Raises WorkshopError for a frame or stages of the wrong shape or type.
    """
    picture = np.asarray(frame)
    return cover(np.repeat(picture[None], len(np.asarray(stages)), axis=0), _masks(stages, mask_id))


def order_map(frame: ArrayLike, stages: ArrayLike, mask_id: int) -> Figure:
    """A frame beside the step at which each of its tokens was settled, 1 the first.

    Arguments and errors as of `unmasking_pictures`; all is settled in the last stage.
    """
    picture = checked_frames(np.asarray(frame)[None], "frame")[0]
    masks = _masks(stages, mask_id)
    if masks[-1].any():
        raise WorkshopError("the last stage still has masks: give all steps of the unmasking")
    step = masks.sum(axis=0) + (0 if masks[0].all() else 1)
    with figure_with_axes(8, 3.8, columns=2) as (figure, axes):
        axes[0].imshow(picture)
        axes[0].set_title("frame")
        image = axes[1].imshow(step, cmap="viridis_r", vmin=1)
        axes[1].set_title("the step in which each token was settled")
        for (y, x), number in np.ndenumerate(step):
            ink = "white" if number > (step.max() + 1) / 2 else "black"
            axes[1].text(x, y, str(number), ha="center", va="center", fontsize=8, color=ink)
        for ax in axes:
            ax.set_xticks([])
            ax.set_yticks([])
            ax.grid(visible=False)
        image.set_clim(1, max(2, int(step.max())))
    return figure


def schedule_plot(
    shares: Mapping[str, ArrayLike], masked: Mapping[str, Sequence[int]], tokens: int
) -> Figure:
    """Mask schedules: the share that is masked over time, and the tokens settled in each step.

    shares: by name, the masked share at evenly spaced moments from 0 to 1.
    masked: by the same names, how many of the tokens are still masked after each step.

    Raises WorkshopError for no schedules, or other names in one than in the other.
    """
    if not shares or list(shares) != list(masked):
        raise WorkshopError(
            f"shares and masked must have the same schedules, got {list(shares)} and {list(masked)}"
        )
    with figure_with_axes(9.4, 3.4, columns=2) as (figure, axes):
        for i, (name, share) in enumerate(shares.items()):
            y = np.asarray(share, dtype=float)
            axes[0].plot(np.linspace(0, 1, len(y)), 100 * y, color=PALETTE[i], label=name)
            settled = -np.diff([tokens, *masked[name]])
            width = 0.8 / len(shares)
            x = np.arange(1, len(settled) + 1) + (i - (len(shares) - 1) / 2) * width
            axes[1].bar(x, settled, width, color=PALETTE[i], label=name)
        axes[0].set(xlabel="progress: steps done / steps", ylabel="still masked, %")
        axes[0].set_title("How much is still masked")
        axes[1].set(xlabel="step", ylabel="tokens", title="Settled in each step")
        axes[0].legend()
    return figure


def _masks(stages: ArrayLike, mask_id: int) -> np.ndarray:
    """bool (S, h, w), where the stages int (S, h, w) are masked."""
    tokens = np.asarray(stages)
    if tokens.ndim != 3 or len(tokens) == 0 or tokens.dtype.kind not in "iu":
        raise WorkshopError(
            f"stages must be integers (S, h, w), one or more, got {tokens.dtype} {tokens.shape}"
        )
    masks: np.ndarray = tokens == mask_id
    return masks

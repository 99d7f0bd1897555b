"""Many small pictures in one: contact sheets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from workshop_lib.errors import WorkshopError
from workshop_lib.media.picture import checked_frames, complete_file, enlarge, text_bar

MARGIN = 4  # pixels around and between the pictures
LABEL_HEIGHT = 14  # pixels below each picture, where there are labels
_PAPER, _INK = (255, 255, 255), (60, 60, 60)
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def contact_sheet(
    frames: ArrayLike, columns: int, labels: Sequence[str] | None = None, scale: int = 2
) -> np.ndarray:
    """The frames in rows of `columns` on white, in reading order.

    frames: uint8 (N, H, W, 3). labels: N short texts, set below the frames.

    Returns uint8 (H', W', 3). `cell_corner` says where each frame lies in it.

    Raises WorkshopError for wrong frames, fewer than one column, or not N labels.
    """
    frames = checked_frames(frames)
    N = len(frames)
    if columns < 1:
        raise WorkshopError(f"a contact sheet needs columns >= 1, got {columns}")
    if labels is not None and len(labels) != N:
        raise WorkshopError(f"need {N} labels, one per frame, got {len(labels)}")
    large = enlarge(frames, scale)
    H, W = large.shape[1:3]
    columns = min(columns, N)
    rows = -(-N // columns)
    labeled = labels is not None
    height, _ = cell_corner(rows * columns, columns, H, W, labeled)
    width = MARGIN + columns * (W + MARGIN)
    sheet = np.full((height, width, 3), _PAPER, dtype=np.uint8)
    for n in range(N):
        y, x = cell_corner(n, columns, H, W, labeled)
        sheet[y : y + H, x : x + W] = large[n]
        if labels is not None:
            sheet[y + H : y + H + LABEL_HEIGHT, x : x + W] = text_bar(
                labels[n], W, LABEL_HEIGHT, _INK, _PAPER
            )
    return sheet


def cell_corner(
    n: int, columns: int, height: int, width: int, labeled: bool = False
) -> tuple[int, int]:
    """(y, x) of the top left pixel of frame n in a sheet of frames `height` by `width` pixels."""
    row, column = divmod(n, columns)
    row_height = height + MARGIN + (LABEL_HEIGHT if labeled else 0)
    return MARGIN + row * row_height, MARGIN + column * (width + MARGIN)


def write_image(path: str | os.PathLike[str], picture: ArrayLike) -> None:
    """Writes one uint8 picture (H, W, 3) as PNG, JPEG or WebP, by the file's suffix.

    Raises WorkshopError for another suffix, or a picture of the wrong shape or type.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in IMAGE_SUFFIXES:
        raise WorkshopError(f"{path}: cannot write {suffix!r}; use {', '.join(IMAGE_SUFFIXES)}")
    checked = checked_frames(np.asarray(picture)[None], f"{path}: the picture (as T=1)")[0]
    with complete_file(path) as partial:
        Image.fromarray(checked).save(partial)

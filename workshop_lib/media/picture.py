"""What every picture here needs: checked frames, enlarging, text that fits, complete files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from workshop_lib.errors import WorkshopError

INK = (236, 239, 244)  # light text on the dark bars and strips
BAR = (28, 31, 38)
MIN_TEXT = 8  # pixels; smaller letters cannot be read


def checked_frames(frames: ArrayLike, name: str = "frames") -> np.ndarray:
    """The frames as a uint8 array (T, H, W, 3), unchanged; T, H and W at least 1.

    frames: an array or CPU tensor, or a list of (H, W, 3) pictures of one size.

    Raises WorkshopError, calling the frames by `name`, for any other shape or type.
    """
    try:
        array = np.asarray(frames)
    except (ValueError, TypeError) as error:  # a list of pictures of several sizes; a GPU tensor
        raise WorkshopError(f"{name} are not one array (T, H, W, 3): {error}") from error
    if array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape:
        raise WorkshopError(
            f"{name} must have shape (T, H, W, 3) with none of them 0, got {array.shape}"
        )
    if array.dtype != np.uint8:
        raise WorkshopError(
            f"{name} must be uint8 from 0 to 255, got {array.dtype}; a model's video in [-1, 1] "
            f"is turned by workshop_lib.data.clip.video_to_frames"
        )
    return array


def enlarge(frames: np.ndarray, scale: int) -> np.ndarray:
    """(..., H, W, C) to (..., H*scale, W*scale, C): every pixel becomes a square.

    Raises WorkshopError unless scale is a whole number from 1.
    """
    if int(scale) != scale or scale < 1:
        raise WorkshopError(f"scale must be a whole number from 1, got {scale}")
    scale = int(scale)
    return frames if scale == 1 else frames.repeat(scale, axis=-3).repeat(scale, axis=-2)


@lru_cache(maxsize=64)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own typeface, `size` pixels high, so that no font file is needed."""
    return ImageFont.load_default(size)


def text_width(text: str, size: int) -> int:
    """How many pixels wide `text` is at `size`."""
    return int(np.ceil(font(size).getlength(text)))


def shorten(text: str, width: int, size: int) -> str:
    """`text` if it fits into `width` pixels, else its beginning and three dots."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text.rstrip() + "...", size) > width:
        text = text[:-1]
    return text.rstrip() + "..." if text else ""


def text_bar(
    text: str,
    width: int,
    height: int,
    ink: tuple[int, int, int] = INK,
    background: tuple[int, int, int] = BAR,
) -> np.ndarray:
    """One centered line of text: uint8 (height, width, 3).

    Text too long for the bar is set smaller, and then shortened.
    """
    size = max(MIN_TEXT, round(height * 0.66))
    while size > MIN_TEXT and text_width(text, size) > width - 4:
        size -= 1
    picture = Image.new("RGB", (width, height), background)
    ImageDraw.Draw(picture).text(
        (width / 2, height / 2), shorten(text, width - 4, size), ink, font(size), anchor="mm"
    )
    return np.asarray(picture)


def lay_out_texts(texts: Sequence[str], width: int, height: int) -> tuple[int, list[list[str]]]:
    """One text size for all, and each text as lines that fit into `width` by `height` pixels.

    The size is the same for all so that nothing jumps from frame to frame. One line each is
    preferred, down to two thirds of the largest size; then words wrap; then texts are cut.
    """
    unique = list(dict.fromkeys(texts))
    largest = max(MIN_TEXT, round(height * 0.32))
    for size in range(largest, max(MIN_TEXT, largest * 2 // 3) - 1, -1):
        if all("\n" not in text and text_width(text, size) <= width for text in unique):
            return size, [[text] for text in texts]
    for size in range(largest, MIN_TEXT - 1, -1):
        wrapped = {text: _wrapped(text, width, size) for text in unique}
        room = max(1, height // _line_height(size))
        if all(
            len(lines) <= room and all(text_width(line, size) <= width for line in lines)
            for lines in wrapped.values()
        ):
            break
    cut = {
        text: [shorten(line, width, size) for line in lines[:room]]
        for text, lines in wrapped.items()
    }
    return size, [cut[text] for text in texts]


def draw_lines(
    picture: Image.Image, lines: Sequence[str], left_middle: tuple[float, float], size: int
) -> None:
    """Draws lines of text into the picture, flush left, as a block centered on a height."""
    x, middle = left_middle
    for i, line in enumerate(lines):
        y = middle + (i - (len(lines) - 1) / 2) * _line_height(size)
        ImageDraw.Draw(picture).text((x, y), line, INK, font(size), anchor="lm")


def _line_height(size: int) -> int:
    return round(size * 1.25)


def _wrapped(text: str, width: int, size: int) -> list[str]:
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and text_width(longer, size) > width:
                lines.append(line)
                line = word
            else:
                line = longer
        lines.append(line)
    return lines


@contextmanager
def complete_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name beside `path`, renamed to it when the block ends well.

    So a file under the wanted name is always whole. The folder is made if need be.
    """
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f".{final.stem}.{os.getpid()}.partial{final.suffix}")
    try:
        yield partial
        os.replace(partial, final)
    finally:
        partial.unlink(missing_ok=True)

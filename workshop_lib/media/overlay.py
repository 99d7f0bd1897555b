"""Frames with the keys that were pressed, and several videos in one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from workshop_lib.errors import WorkshopError
from workshop_lib.media.keys import (
    PROCGEN_KEYS,
    Keys,
    extra_width,
    key_size,
    keys_picture,
    pad_width,
)
from workshop_lib.media.picture import (
    BAR,
    checked_frames,
    draw_lines,
    enlarge,
    lay_out_texts,
    text_bar,
)


def draw_keys(
    frames: ArrayLike,
    actions: ArrayLike,
    scale: int = 4,
    captions: Sequence[str] | None = None,
    keys: Sequence[Keys] = PROCGEN_KEYS,
) -> np.ndarray:
    """Enlarges a video and adds a strip below it with the keys, those pressed now lit.

    frames: uint8 (T, H, W, 3).
    actions: int (T,), or (T-1,) where the last frame has none. `actions[t]` was pressed AFTER
        seeing frame t and led to frame t+1; it is shown with frame t.
    scale: every pixel of the game becomes a square of so many pixels; 2 to 8 look good.
    captions: one short text per frame, set beside the keys; words wrap.
    keys: the keys of each action; give these for a game other than Procgen's. "up", "down",
        "left" and "right" are drawn as arrows, any other name is shown while it is pressed.

    Returns uint8 (T, H*scale + S, W*scale, 3). The game's picture is rows 0 to H*scale, untouched;
    the strip's height S depends on H*scale alone.

    Raises WorkshopError for frames or actions of the wrong shape, type or range.
    """
    frames = checked_frames(frames)
    pressed = _pressed_keys(frames, actions, keys)
    if captions is not None and len(captions) != len(frames):
        raise WorkshopError(f"need {len(frames)} captions, one per frame, got {len(captions)}")
    large = enlarge(frames, scale)
    T, H, W, _ = large.shape
    size, margin = key_size(H), max(2, key_size(H) // 5)
    pad, extras = pad_width(keys, size), extra_width(keys, size)
    strip_height = 2 * size + 2 * margin
    text_left = 3 * margin + pad + (margin + extras if extras else 0)
    text_right = W - margin
    text_size, lines = lay_out_texts(captions or [""] * T, text_right - text_left, strip_height)

    result = np.empty((T, H + strip_height, W, 3), dtype=np.uint8)
    result[:, :H] = large
    for t in range(T):
        strip = Image.new("RGB", (W, strip_height), BAR)
        strip.paste(keys_picture(pressed[t], size, pad > 0), (margin, margin))
        draw_lines(strip, lines[t], (text_left, strip_height / 2), text_size)
        result[t, H:] = np.asarray(strip)
    return result


def side_by_side(
    videos: Sequence[ArrayLike], labels: Sequence[str] | None = None, scale: int = 1
) -> np.ndarray:
    """Several videos of one shape in one row, a label above each.

    videos: each uint8 (T, H, W, 3). Returns uint8 (T, H', W', 3).

    Raises WorkshopError if the shapes differ, or the labels do not number the same.
    """
    return _joined(videos, labels, scale, axis=2)


def stack(
    videos: Sequence[ArrayLike], labels: Sequence[str] | None = None, scale: int = 1
) -> np.ndarray:
    """Several videos of one shape one above the other, such as the real above the generated.

    Arguments, result and errors as in `side_by_side`; the two can be nested into a grid.
    """
    return _joined(videos, labels, scale, axis=1)


def _pressed_keys(frames: np.ndarray, actions: ArrayLike, keys: Sequence[Keys]) -> list[Keys]:
    """The keys pressed after each of the T frames; none after a last frame without an action."""
    indices = np.asarray(actions)
    if indices.size == 0:
        indices = indices.astype(np.int64)  # an empty list comes as floats
    T = len(frames)
    if indices.ndim != 1 or len(indices) not in (T, T - 1) or indices.dtype.kind not in "iu":
        raise WorkshopError(
            f"actions must be integers of shape ({T},) or ({T - 1},) for {T} frames, got "
            f"{indices.dtype} {indices.shape}"
        )
    for t, index in enumerate(indices.tolist()):
        if not 0 <= index < len(keys):
            raise WorkshopError(
                f"actions[{t}] is {index}, but only 0 to {len(keys) - 1} have keys; for another "
                f"game give keys=, one tuple of key names per action"
            )
    pressed = [tuple(keys[index]) for index in indices.tolist()]
    return pressed + [()] * (T - len(pressed))


def _joined(
    videos: Sequence[ArrayLike], labels: Sequence[str] | None, scale: int, axis: int
) -> np.ndarray:
    """The videos along an axis (1 down, 2 across), with labels above and thin gaps between."""
    parts = [checked_frames(video, f"videos[{i}]") for i, video in enumerate(videos)]
    if not parts:
        raise WorkshopError("no videos to put together: give one or more")
    for i, part in enumerate(parts):
        if part.shape != parts[0].shape:
            raise WorkshopError(
                f"videos must have one shape: videos[0] is {parts[0].shape}, videos[{i}] is "
                f"{part.shape}"
            )
    if labels is not None and len(labels) != len(parts):
        raise WorkshopError(f"need {len(parts)} labels, one per video, got {len(labels)}")
    parts = [enlarge(part, scale) for part in parts]
    T, H, W, _ = parts[0].shape
    bar_height, gap = max(14, round(H * 0.1)), max(2, H // 64)
    if labels is not None:
        bars = [text_bar(label, W, bar_height) for label in labels]
        parts = [
            np.concatenate([np.broadcast_to(bar, (T, *bar.shape)), part], axis=1)
            for bar, part in zip(bars, parts, strict=True)
        ]
    shape = list(parts[0].shape)
    shape[axis] = gap
    between = np.broadcast_to(np.array(BAR, dtype=np.uint8), shape)
    spaced = [piece for part in parts for piece in (between, part)][1:]
    return np.concatenate(spaced, axis=axis)

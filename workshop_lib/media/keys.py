"""Pictures of the keys that an action presses: a D-pad, and any other key by its name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageDraw

from workshop_lib.data.actions import ACTIONS
from workshop_lib.media.picture import BAR, MIN_TEXT, font, text_width

Keys = tuple[str, ...]
PROCGEN_KEYS: tuple[Keys, ...] = tuple(action.keys for action in ACTIONS)

LIT, LIT_INK = (255, 190, 11), (28, 31, 38)
UNLIT, UNLIT_INK = (62, 67, 79), (134, 141, 156)

# Where each arrow key lies, in keys from the left and from the top, and where it points.
_ARROWS: dict[str, tuple[int, int, int, int]] = {
    "up": (1, 0, 0, -1),
    "left": (0, 1, -1, 0),
    "down": (1, 1, 0, 1),
    "right": (2, 1, 1, 0),
}
_SMOOTH = 4  # keys are drawn this many times larger and then reduced, for smooth edges


def key_size(height: int) -> int:
    """The side of one key in pixels, for a picture `height` pixels high."""
    return max(9, round(height * 0.1))


@lru_cache(maxsize=256)
def keys_picture(pressed: Keys, size: int, pad: bool = True) -> Image.Image:
    """The four arrow keys, those in `pressed` lit, and right of them any other key pressed.

    size: the side of one key in pixels. pad: whether to draw the arrow keys.
    """
    others = [key for key in pressed if key not in _ARROWS]
    widths = [_wide_key(key, size) for key in others]
    left = 3 * size + max(2, size // 5) if pad else 0
    picture = Image.new("RGB", ((left + sum(widths)) or 1, 2 * size), BAR)
    if pad:
        for name, (x, y, dx, dy) in _ARROWS.items():
            picture.paste(_arrow_key((dx, dy), size, name in pressed), (x * size, y * size))
    for key, width in zip(others, widths, strict=True):
        picture.paste(_named_key(key, width, size), (left, size if pad else size // 2))
        left += width
    return picture


def pad_width(keys: Sequence[Keys], size: int) -> int:
    """How wide the arrow keys are; 0 for a game that uses none of them."""
    has_arrows = any(key in _ARROWS for names in keys for key in names)
    return 3 * size if has_arrows else 0


def extra_width(keys: Sequence[Keys], size: int) -> int:
    """Room for the widest set of other keys, so that captions stay in one place."""
    return max(
        (sum(_wide_key(key, size) for key in names if key not in _ARROWS) for names in keys),
        default=0,
    )


def _wide_key(key: str, size: int) -> int:
    if len(key) == 1:
        return size
    return max(size, text_width(key, _letter_size(size)) + size // 2 + 2)


def _letter_size(size: int) -> int:
    return max(MIN_TEXT, round(size * 0.72))


def _key_cap(width: int, size: int, lit: bool) -> Image.Image:
    """One empty key, `_SMOOTH` times as large, with a hair of background around it."""
    picture = Image.new("RGB", (width * _SMOOTH, size * _SMOOTH), BAR)
    edge = _SMOOTH * max(1, size // 16) // 2
    box = (edge, edge, width * _SMOOTH - 1 - edge, size * _SMOOTH - 1 - edge)
    ImageDraw.Draw(picture).rounded_rectangle(
        box, radius=size * _SMOOTH * 0.2, fill=LIT if lit else UNLIT
    )
    return picture


def _arrow_key(direction: tuple[int, int], size: int, lit: bool) -> Image.Image:
    picture = _key_cap(size, size, lit)
    dx, dy = direction
    middle = size * _SMOOTH / 2
    reach, half = size * _SMOOTH * 0.22, size * _SMOOTH * 0.26
    points = [
        (middle + dx * reach, middle + dy * reach),
        (middle - dx * reach + dy * half, middle - dy * reach + dx * half),
        (middle - dx * reach - dy * half, middle - dy * reach - dx * half),
    ]
    ImageDraw.Draw(picture).polygon(points, fill=LIT_INK if lit else UNLIT_INK)
    return picture.resize((size, size), Image.Resampling.BOX)


def _named_key(key: str, width: int, size: int) -> Image.Image:
    picture = _key_cap(width, size, lit=True).resize((width, size), Image.Resampling.BOX)
    name = key.upper() if len(key) == 1 else key
    ImageDraw.Draw(picture).text(
        (width / 2, size / 2), name, LIT_INK, font(_letter_size(size)), anchor="mm"
    )
    return picture

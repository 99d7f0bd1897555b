"""Writes what README.md and data/pretrained/README.md take from the registry of trained models.

    python tools/readme_parts.py                     # the tables and the model cards
    python tools/readme_parts.py --gif dynamics-tiny # also docs/dynamics-tiny.gif, for README.md

`workshop pretrained add` writes the tables and cards, too.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from workshop_lib.data.actions import ACTIONS
from workshop_lib.errors import WorkshopError
from workshop_lib.generate import choose_actions, dream, film, really, recorded_prompt
from workshop_lib.pretrained.cards import REPOSITORY, write_pages
from workshop_lib.pretrained.registry import get_entry
from workshop_lib.worlds.opening import open_world

MOST_BYTES = 1_000_000  # of a GIF, so that the page opens quickly
PROMPT, FRAMES = 8, 56
SCALES = (3, 2, 1)
EPISODES = {"mono": 10, "easy": 10, "hard": 3}  # of data/sample's test levels: with much going on


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the tool; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gif", nargs="+", default=[], metavar="NAME", help="worlds to film")
    parser.add_argument("--episode", type=int, help="of data/sample's test levels")
    options = parser.parse_args(arguments)
    for name in options.gif:
        make_gif(name, options.episode)
    for path in write_pages():
        print(f"wrote {path.relative_to(REPOSITORY)}")
    return 0


def make_gif(name: str, episode: int | None = None, docs: Path = REPOSITORY / "docs") -> Path:
    """docs/NAME.gif: a recorded episode, and below it what the world dreams of the same keys.

    As large as MOST_BYTES allow.

    Raises WorkshopError if it is too large even unenlarged.
    """
    look = get_entry(name).look
    data, path = REPOSITORY / "data" / "sample" / look, docs / f"{name}.gif"
    episode = EPISODES[look] if episode is None else episode
    begun = recorded_prompt(data, "test", episode, 0, PROMPT)
    pressed = choose_actions("dataset", begun, len(ACTIONS), FRAMES)
    dreamed, real = dream(open_world(name), begun, pressed), really(begun, pressed)
    for scale in SCALES:
        written = small_gif(film(begun, dreamed, real, pressed, scale))
        if len(written) <= MOST_BYTES:
            path.write_bytes(written)
            return path
    raise WorkshopError(f"{path}: {len(written)} bytes, more than {MOST_BYTES}")


def small_gif(frames: np.ndarray, colors: int = 64, milliseconds: int = 70) -> bytes:
    """A GIF with one palette for all frames, half the size of one with a palette for each.

    frames: uint8 (T, H, W, 3). milliseconds: that each is shown; GIF knows only tens.
    """
    sample = Image.fromarray(np.concatenate(list(frames[::4])))
    palette = sample.quantize(colors, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    first, *others = (
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    )
    buffer = io.BytesIO()
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=milliseconds, loop=0)
    return buffer.getvalue()


if __name__ == "__main__":
    sys.exit(main())

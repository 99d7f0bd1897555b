"""Pictures for those who have never seen a world model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from workshop_lib.data.actions import ACTIONS
from workshop_lib.media.keys import PROCGEN_KEYS, keys_picture
from workshop_lib.media.plots import QUIET, TEXT, figure_with_axes
from workshop_lib.media.sheet import contact_sheet
from workshop_lib.play.session import PlaySession

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch


def one_step(session: PlaySession, action: int, past: int = 4) -> Figure:
    """What goes into a world model and what comes out: the last frames, a key, the next frame.

    session: of a world that takes the game's keys; it is left as it was.
    """
    played = _again(session)
    frames = session.prompt.frames[-past:].numpy()
    after = played.step(action).frame
    with figure_with_axes(9.6, 2.7) as (figure, axes):
        ax = axes[0]
        ax.set_axis_off()
        for i, frame in enumerate(frames):
            left = 0.32 * i
            _frame(ax, frame, left, 0.08 * (len(frames) - 1 - i), QUIET)
        right = 0.32 * (len(frames) - 1) + 1
        ax.text(right / 2, -0.1, "what was seen", ha="center", va="top", fontsize=10)
        _arrow(ax, right + 0.08, right + 0.5)
        box = right + 0.55
        ax.add_patch(_box(box, 0.2, 1.15, 0.6))
        ax.text(box + 0.575, 0.5, "world\nmodel", ha="center", va="center", fontsize=12)
        keys = np.asarray(keys_picture(PROCGEN_KEYS[action], 48))
        extent = (box + 0.275, box + 0.875, 1.05, 1.45)
        ax.imshow(keys, extent=extent, interpolation="antialiased")
        ax.annotate("", (box + 0.575, 0.82), (box + 0.575, 1.04), arrowprops=_HEAD)
        ax.text(box + 0.575, 1.5, f"the key: {ACTIONS[action].name}", ha="center", fontsize=10)
        _arrow(ax, box + 1.2, box + 1.62)
        _frame(ax, after, box + 1.7, 0.0, TEXT)
        ax.text(box + 2.2, -0.1, "what it dreams", ha="center", va="top", fontsize=10)
        ax.set(xlim=(-0.05, box + 2.75), ylim=(-0.3, 1.7), aspect="equal")
    return figure


def branches(
    session: PlaySession, actions: Sequence[int], steps: int, scale: int = 2
) -> np.ndarray:
    """One moment, several futures: a key held for `steps` frames each, uint8 (H', W', 3).

    The dreams are in the upper row; below them the real game under the same keys, where it runs
    beside the dream. The session is left as it was.
    """
    dreamed, real = [session.prompt.frames[-1].numpy()], [session.prompt.frames[-1].numpy()]
    played = _again(session)
    for action in actions:
        played.reset()
        for _ in range(steps):
            now = played.step(action)
        dreamed.append(now.frame)
        real.append(now.frame // 3 if now.real is None else now.real)
    names = [ACTIONS[action].name for action in actions]
    labels = ["the moment", *[f"dream: {name}" for name in names]]
    rows = [*dreamed]
    if any(step.real is not None for step in played.steps):
        rows += real
        labels += ["the moment", *[f"game: {name}" for name in names]]
    return contact_sheet(np.stack(rows), columns=len(dreamed), labels=labels, scale=scale)


_HEAD = {"arrowstyle": "-|>", "color": TEXT, "lw": 1.8, "shrinkA": 0, "shrinkB": 0}


def _again(session: PlaySession) -> PlaySession:
    """Another session of the same world from the same prompt."""
    return PlaySession(session.world, session.prompt, session.name)


def _frame(ax: Axes, frame: np.ndarray, left: float, bottom: float, color: str) -> None:
    from matplotlib.patches import Rectangle

    ax.imshow(frame, extent=(left, left + 1, bottom, bottom + 1), zorder=2 + left)
    ax.add_patch(Rectangle((left, bottom), 1, 1, fill=False, ec=color, lw=1, zorder=2 + left))


def _box(left: float, bottom: float, width: float, height: float) -> Patch:
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0,rounding_size=.08"
    return FancyBboxPatch((left, bottom), width, height, boxstyle=style, fc="#E6E8EB", ec=TEXT)


def _arrow(ax: Axes, left: float, right: float) -> None:
    ax.annotate("", (right, 0.5), (left, 0.5), arrowprops=_HEAD)

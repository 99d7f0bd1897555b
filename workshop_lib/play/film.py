"""A session as a video: its keys below, the real game beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workshop_lib.data.actions import NOTHING, parse_actions
from workshop_lib.media.keys import PROCGEN_KEYS, Keys
from workshop_lib.media.overlay import draw_keys, side_by_side
from workshop_lib.media.video import Gif, show_gif

if TYPE_CHECKING:
    from workshop_lib.play.session import PlaySession, Step

DEMO = "right x10, right-jump x4, left x8"


def film(session: PlaySession, scale: int = 4) -> np.ndarray:
    """Prompt and steps with the keys that were pressed: uint8 (T, H', W', 3).

    Where the real game ran beside the dream it is on the left; it goes dark when its level is
    over. Of a long session it is the last HISTORY steps, without the prompt.
    """
    steps = list(session.steps)
    whole = steps[0].action is None
    before = list(session.prompt.frames[:-1].numpy()) if whole else []
    dreamed = before + [step.frame for step in steps]
    keys, pressed = _keys(session, steps, len(before))
    captions = ["prompt"] * len(before) + _captions(session, steps)
    dream = draw_keys(np.stack(dreamed), pressed, scale, captions, keys)
    if all(step.real is None for step in steps):
        return dream
    real, last = list(before), steps[0].frame
    for step in steps:
        last = step.real if step.real is not None else last
        real.append(last if step.real is not None else last // 3)
    game = draw_keys(np.stack(real), pressed, scale, captions, keys)
    return side_by_side([game, dream], ["the real game", session.name])


def still(session: PlaySession) -> Gif:
    """A small GIF that stands for a player: what was played; before that, a demonstration."""
    if not session.actions and not session.is_game:
        demo = type(session)(session.world, session.prompt, session.name)
        for action in parse_actions(DEMO).tolist():
            demo.step(action % session.world.num_actions)
        session = demo
    return show_gif(film(session, scale=2))


def _captions(session: PlaySession, steps: list[Step]) -> list[str]:
    """What happened in a frame, else what was pressed after seeing it."""
    pressed = [session.caption(step) for step in steps[1:]] + [""]
    return [step.note or caption for step, caption in zip(steps, pressed, strict=True)]


def _keys(session: PlaySession, steps: list[Step], before: int) -> tuple[list[Keys], np.ndarray]:
    """The keys of each action, and the action at each frame but the last."""
    after = [step.action for step in steps[1:]]
    if session.takes_keys:
        past = session.prompt.actions.tolist() if before else []
        return list(PROCGEN_KEYS), np.array([*past, *after, NOTHING])[:-1]
    count = session.world.num_actions  # codes; what led through the prompt has none
    keys: list[Keys] = [*((f"code {code}",) for code in range(count)), ()]
    return keys, np.array([*[count] * before, *after, count])[:-1]

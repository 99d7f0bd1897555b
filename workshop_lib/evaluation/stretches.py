"""Control measured on recordings alone, where there is neither a game nor recorded starts.

In held-out episodes there are stretches in which LEFT or RIGHT was held and the picture scrolled
for it. A world dreams each stretch twice, with the keys as pressed and with left and right
exchanged. It is right if the first dream is nearer to what really came. This is one half of the
counterfactual measure (control.py): what the other key would really have done is not known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from workshop_lib.data.actions import HORIZONTAL, VERTICAL, combine
from workshop_lib.data.clip import Clip
from workshop_lib.data.clips import make_clip
from workshop_lib.data.episodes import Episode
from workshop_lib.data.shards import open_shard, read_all
from workshop_lib.data.splits import split_shards
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.metrics import Score, Share, ratio, share, squared_error
from workshop_lib.evaluation.rollout import check_keys, dream
from workshop_lib.evaluation.shift import scroll
from workshop_lib.worlds.opening import options_of
from workshop_lib.worlds.world import World

HELD = 8  # frames for which the key is held
LEAST_SCROLL = 5  # pixels that the picture moves in them


@dataclass(frozen=True)
class StretchReport:
    """left, right: in what share of the stretches of this key the dream with the true keys is the
        nearer one; chance is 50%.
    gain: how far the dreams with the true keys scroll, over how far the real pictures do.
    options: how the world dreamed, its steps and sampler, say, where it has them.
    """

    stretches: int
    horizon: int
    options: dict[str, int | float | str]
    left: Share
    right: Share
    gain: Score

    def table(self) -> str:
        return (
            f"{self.stretches} recorded stretches, after {self.horizon} frames of a held key:\n"
            f"left told from right   {self.left}\n"
            f"right told from left   {self.right}\n"
            f"gain                   {self.gain}"
        )


def measure_stretches(world: World, clip: Clip, prompt: int = 8) -> StretchReport:
    """The report on clips of `prompt` + 8 frames, in the last 8 of which one key is held.

    Raises WorkshopError for a world that does not take the game's keys.
    """
    check_keys(world)
    frames, past = clip.frames[:, :prompt], clip.actions[:, : prompt - 1]
    pressed, real = clip.actions[:, prompt - 1 : -1], clip.frames[:, -1]
    true = dream(world, frames, past, pressed)[:, -1]
    exchanged = dream(world, frames, past, mirrored(pressed))[:, -1]
    error, other = squared_error(true, real), squared_error(exchanged, real)
    right = (error < other).double() + (error == other).double() / 2
    leftward = torch.from_numpy(HORIZONTAL)[pressed[:, 0]] < 0
    now = frames[:, -1]
    sign = torch.where(leftward, 1, -1)
    return StretchReport(
        stretches=len(clip),
        horizon=HELD,
        options=options_of(world),
        left=share(right[leftward]),
        right=share(right[~leftward]),
        gain=ratio(sign * scroll(now, true)[:, 0], sign * scroll(now, real)[:, 0]),
    )


def mirrored(actions: Tensor) -> Tensor:
    """The keys with left and right exchanged, int64, same shape."""
    keys = combine(-HORIZONTAL[:9], VERTICAL[:9])
    return torch.from_numpy(np.concatenate([keys, np.arange(9, 15)]))[actions]


def find_stretches(data: str | Path, split: str, count: int, prompt: int = 8) -> Clip:
    """Clips of `prompt` + 8 frames, at most one of each key from an episode, `count` in all.

    Raises WorkshopError if there are none.
    """
    found: dict[int, list[tuple[Episode, int]]] = {-1: [], 1: []}
    for path in split_shards(data, split):
        shard = open_shard(path)
        for episode in read_all(shard):
            for side, stretches in found.items():
                if len(stretches) < count // 2 and (start := _stretch(episode, side, prompt)) >= 0:
                    stretches.append((episode, start))
        shard.close()
    parts = [part for stretches in found.values() for part in stretches]
    if not parts:
        raise WorkshopError(f"{data}: nobody holds left or right for {HELD} frames in {split}")
    return make_clip(parts, prompt + HELD)


def _stretch(episode: Episode, side: int, prompt: int) -> int:
    """Where a clip begins that ends in a stretch of one side (-1 left, 1 right); -1 for none."""
    for start in _held(episode, side, prompt):
        last = start + prompt - 1
        pair = torch.from_numpy(episode.frames[[last, last + HELD]].copy())
        if -side * int(scroll(pair[:1], pair[1:])[0, 0]) >= LEAST_SCROLL:
            return start
    return -1


def _held(episode: Episode, side: int, prompt: int) -> Iterator[int]:
    """Every start of a clip after whose prompt the side is held to the end."""
    if episode.actions is None or len(episode) < prompt + HELD:
        return
    held = np.lib.stride_tricks.sliding_window_view(HORIZONTAL[episode.actions] == side, HELD)
    for last in np.flatnonzero(held.all(axis=1)):
        if last >= prompt - 1 and last + HELD < len(episode):
            yield int(last) - prompt + 1

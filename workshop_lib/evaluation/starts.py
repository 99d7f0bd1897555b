"""Moments of the real game and what each key leads to from there: the truth about control.

From one saved moment the game is played on four times: LEFT, RIGHT, jump and nothing are held.
Moments in the air or against a wall tell nothing, for there the keys change nothing: without a
filter even a perfect world looks as if it could not be steered.
"""

from __future__ import annotations

import json
import lzma
import zipfile
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from workshop_lib.data.actions import HORIZONTAL, JUMP, LEFT, NOTHING, RIGHT, combine
from workshop_lib.data.game import Game, GameConfig, Look
from workshop_lib.data.policies import make_policy
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.shift import scroll
from workshop_lib.media.picture import complete_file

KEYS = (LEFT, RIGHT, JUMP, NOTHING)
PROMPT = 8  # frames of the past that a world may see
STEPS = 12  # for so many frames each key is held
CALM = 15  # no jump pressed for so many frames: the player stands on the ground
LEAST_SCROLL = 10  # pixels between the real LEFT and RIGHT, SCROLL_AT frames later
SCROLL_AT, JUMP_AT = 8, 4
GAMES = 64
RUN = (20, 80)  # frames for which the player runs into the level first
PATIENCE = 400  # steps of all games without a moment on a new level; usually there is one in 3
FORMAT = "workshop-lib starts 1"
# what reading a damaged .npz may raise
DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile,
           zlib.error, lzma.LZMAError)  # fmt: skip


@dataclass(frozen=True)
class Starts:
    """S moments of the real game, each of another level.

    frames: uint8 (S, T, H, W, C), the last T frames up to the moment.
    actions: int64 (S, T - 1), what led from each of them to the next.
    branches: uint8 (S, 4, h, H, W, C): what the real game shows `horizons[i]` frames after it, if
        LEFT, RIGHT, jump or nothing (KEYS) is held.
    levels: int64 (S,). look: "mono", "easy" or "hard".
    moments: for `Game.restore`; empty in starts that come from a file.
    """

    frames: Tensor
    actions: Tensor
    branches: Tensor
    levels: Tensor
    horizons: tuple[int, ...]
    look: str
    moments: tuple[bytes, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, part: slice) -> Starts:
        """Some of the starts: `starts[:64]`."""
        return replace(
            self,
            frames=self.frames[part],
            actions=self.actions[part],
            branches=self.branches[part],
            levels=self.levels[part],
            moments=self.moments[part],
        )

    def thinned(self, prompt: int, horizons: tuple[int, ...]) -> Starts:
        """With the last `prompt` frames of the past and fewer horizons, for a small file."""
        kept = [self.horizons.index(horizon) for horizon in horizons]
        return replace(
            self,
            frames=self.frames[:, -prompt:],
            actions=self.actions[:, self.actions.shape[1] - prompt + 1 :],
            branches=self.branches[:, :, kept],
            horizons=horizons,
        )


def collect_starts(
    count: int, look: Look = "easy", levels: tuple[int, int] = (110_000, 120_000), seed: int = 0
) -> Starts:
    """Plays the real game and keeps `count` moments; equal seeds give equal starts.

    A moment is kept if no jump was pressed in the last 15 frames, all four futures survive 12
    frames, the real LEFT and RIGHT pictures are 10 pixels or more apart after 8 frames, and jump
    differs from nothing after 4.

    Raises WorkshopError without a simulator that can save (procgen), or if too few turn up.
    """
    config = GameConfig(look=look, levels=levels)
    parts: list[Starts] = []
    found = 0
    with Game(config, GAMES, seed) as game, Game(config, GAMES, seed) as future:
        if not game.can_save:
            raise WorkshopError(
                "this simulator cannot save the moments to compare from: install procgen, or give "
                "--starts-file data/sample/starts/easy.npz, or --data for recorded stretches"
            )
        candidates = _calm_moments(game, seed)
        while found < count and (batch := list(islice(candidates, GAMES))):
            played, survived = _play_on(batch, future, look)
            telling = torch.nonzero(survived & _keys_matter(played))[:, 0].tolist()
            parts += [played[n : n + 1] for n in telling]
            found += len(telling)
    if found < count:
        raise WorkshopError(f"found {found} starts of {count}: ask for fewer, or for more levels")
    return _joined(parts[:count])


class _Moment(NamedTuple):
    frames: np.ndarray  # uint8 (T, H, W, C)
    actions: np.ndarray  # int64 (T - 1,)
    level: int
    saved: bytes


def _calm_moments(game: Game, seed: int) -> Iterator[_Moment]:
    """One moment of each level that is played: after a run into it and a walk without jumps."""
    count, rng = game.count, np.random.default_rng(seed)
    runner, walker = make_policy("runner", count, seed), make_policy("control", count, seed)
    frames: deque[np.ndarray] = deque(maxlen=PROMPT)
    actions: deque[np.ndarray] = deque(maxlen=PROMPT - 1)
    run = np.zeros(count, dtype=np.int64)  # frames left of the run
    walk = np.zeros(count, dtype=np.int64)  # frames left of the walk
    seen: set[int] = set()
    waited = 0
    while waited < PATIENCE:
        observation = game.observe()
        frames.append(observation.frames.copy())
        run = np.where(observation.first, rng.integers(*RUN, count), run - 1)
        walk = np.where(run >= 0, rng.integers(CALM, 2 * CALM, count), walk - 1)
        arrived = np.flatnonzero(walk == 0)
        saved = game.save() if len(arrived) else []
        levels = game.level_seeds()
        waited += 1
        for n in arrived:
            if int(levels[n]) not in seen:
                waited = 0
                seen.add(int(levels[n]))
                past = np.stack([frame[n] for frame in frames])
                pressed = np.array([action[n] for action in actions])
                yield _Moment(past, pressed, int(levels[n]), saved[n])
        running, _ = runner.choose(observation.first)
        walking, _ = walker.choose(observation.first)
        walking = combine(HORIZONTAL[walking], np.zeros_like(walking))
        actions.append(np.where(run > 0, running, walking))
        game.act(actions[-1], reset=walk == 0)  # on to another level


def _play_on(batch: list[_Moment], future: Game, look: str) -> tuple[Starts, Tensor]:
    """The moments with their branches; and bool (S,), which of them survive all four."""
    saved = tuple(moment.saved for moment in batch)
    idle = saved[:1] * (future.count - len(saved))  # the last batch may be short
    survived = np.ones(len(saved), dtype=bool)
    branches = []
    for key in KEYS:
        future.restore(saved + idle)
        for _ in range(STEPS):
            future.act(np.full(future.count, key))
            observation = future.observe()
            survived &= ~observation.first[: len(saved)]
            branches.append(observation.frames[: len(saved)].copy())
    starts = Starts(
        frames=torch.from_numpy(np.stack([moment.frames for moment in batch])),
        actions=torch.from_numpy(np.stack([moment.actions for moment in batch])),
        branches=torch.from_numpy(np.stack(branches, axis=1)).unflatten(1, (len(KEYS), STEPS)),
        levels=torch.tensor([moment.level for moment in batch]),
        horizons=tuple(range(1, STEPS + 1)),
        look=look,
        moments=saved,
    )
    return starts, torch.from_numpy(survived)


def _keys_matter(starts: Starts) -> Tensor:
    """bool (S,): the real LEFT and RIGHT come far apart, and jump is not the same as nothing."""
    now = starts.frames[:, -1]
    left, right, *_ = starts.branches[:, :, SCROLL_AT - 1].unbind(1)
    apart = (scroll(now, left) - scroll(now, right))[:, 0]
    *_, jump, nothing = starts.branches[:, :, JUMP_AT - 1].unbind(1)
    return (apart >= LEAST_SCROLL) & (jump != nothing).flatten(1).any(dim=1)


def _joined(parts: list[Starts]) -> Starts:
    return replace(
        parts[0],
        frames=torch.cat([part.frames for part in parts]),
        actions=torch.cat([part.actions for part in parts]),
        branches=torch.cat([part.branches for part in parts]),
        levels=torch.cat([part.levels for part in parts]),
        moments=tuple(moment for part in parts for moment in part.moments),
    )


def save_starts(path: str | Path, starts: Starts, small: bool = False) -> None:
    """Writes all but the moments to an .npz file.

    small: pack by LZMA: a quarter of the size, 20 times as slow to write. `numpy.load` reads both.
    """
    packing = zipfile.ZIP_LZMA if small else zipfile.ZIP_DEFLATED
    arrays = {
        "frames": starts.frames.numpy(),
        "actions": starts.actions.numpy(),
        "branches": starts.branches.numpy(),
        "levels": starts.levels.numpy(),
        "horizons": np.array(starts.horizons),
        "about": np.array(json.dumps({"format": FORMAT, "look": starts.look})),
    }
    with (
        complete_file(path) as partial,
        zipfile.ZipFile(partial, "w", packing) as archive,
    ):
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def load_starts(path: str | Path) -> Starts:
    """The starts in a file that `save_starts` wrote.

    Raises WorkshopError naming the file if it is missing, damaged or holds something else.
    """
    if not Path(path).is_file():
        raise WorkshopError(f"{path}: no such file; `workshop evaluate control` makes one")
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            if about["format"] != FORMAT:
                raise ValueError(f"format {about['format']!r}")
            horizons = tuple(file["horizons"].tolist())
            branches = torch.from_numpy(file["branches"])
            if branches.shape[1:3] != (len(KEYS), len(horizons)):
                raise ValueError(f"branches {tuple(branches.shape)}")
            return Starts(
                frames=torch.from_numpy(file["frames"]),
                actions=torch.from_numpy(file["actions"]),
                branches=branches,
                levels=torch.from_numpy(file["levels"]),
                horizons=horizons,
                look=about["look"],
            )
    except DAMAGED as error:
        raise WorkshopError(f"{path}: not a file of starts ({error!r})") from error

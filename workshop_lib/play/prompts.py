"""Where play begins: a recorded episode, a level of the real game, or a moment of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from workshop_lib.data.actions import NOTHING
from workshop_lib.data.episodes import Episode
from workshop_lib.data.game import Backend, GameConfig, Look
from workshop_lib.data.shards import read_episode
from workshop_lib.data.splits import split_shards
from workshop_lib.errors import WorkshopError
from workshop_lib.worlds.game_world import GameWorld

LENGTH = 8  # frames of a prompt, unless more or fewer are asked for
SAME = 1.0  # gray levels, on average, by which two builds of the game may draw a frame differently


@dataclass(frozen=True)
class Prompt:
    """What a session begins with.

    frames: uint8 (T, H, W, C), T >= 1. actions: int64 (T - 1,), what was pressed between them.
    name: in words, for people.
    game: which game and look, where known; level: its level.
    moment: the real game at the last frame, for `GameWorld.begin`, where procgen saved it.
    pressed: what was pressed since the level began, where known: another way to that moment.
    simulator: in which the real game runs beside a dream from here.
    """

    frames: Tensor
    actions: Tensor
    name: str = ""
    game: GameConfig | None = None
    level: int | None = None
    moment: bytes | None = None
    pressed: tuple[int, ...] | None = None
    simulator: Backend = "auto"


def recorded_prompt(
    folder: str | Path,
    split: str = "test",
    episode: int = 0,
    start: int = 0,
    length: int = LENGTH,
    simulator: Backend = "auto",
) -> Prompt:
    """Frames `start` to `start + length` of an episode of a split folder; fewer if it ends before.

    The real game comes along where a simulator can be brought to the same moment: by playing the
    episode again from the beginning of its level.

    Raises WorkshopError if there is no such episode or frame, or nobody recorded its actions.
    """
    shards = split_shards(folder, split)
    found = read_episode(shards, episode)
    if not 0 <= start < len(found) or length < 1:
        raise WorkshopError(
            f"{folder}: {split} episode {episode} has the frames 0 to {len(found) - 1}, so no "
            f"prompt of {length} from frame {start} on"
        )
    if found.actions is None:
        raise WorkshopError(f"{folder}: nobody recorded the actions of {split} episode {episode}")
    end = min(start + length, len(found))
    game = _recorded_game(shards[0].parent / "sampling.json")
    moment = pressed = None
    if game is not None:
        moment, pressed = _played_again(found, game, end - 1, simulator)
    return Prompt(
        frames=torch.tensor(found.frames[start:end]),
        actions=torch.tensor(found.actions[start : end - 1], dtype=torch.int64),
        name=f"{Path(folder).name}, {split} episode {episode}, frame {end - 1}",
        game=game,
        level=found.level_seed,
        moment=moment,
        pressed=pressed,
        simulator=simulator,
    )


def level_prompt(
    level: int,
    look: Look = "easy",
    length: int = LENGTH,
    actions: Sequence[int] = (),
    simulator: Backend = "auto",
) -> Prompt:
    """The last `length` frames of a level of the real game, after `actions` and some waiting.

    Without actions these are the first frames of the level, nothing pressed.

    Raises WorkshopError where there is no simulator.
    """
    config = GameConfig(look=look, levels=(level, level + 1))
    game = GameWorld(config, backend=simulator)
    state, keys = game.begin(), [*actions, *[NOTHING] * (length - 1 - len(actions))]
    for action in keys:
        _, state = game.step(state, torch.tensor([action]))
    frames, pressed = game.prompt(state)
    game.close()
    return Prompt(
        frames=frames[0, -length:],
        actions=pressed[0, pressed.shape[1] - min(length, frames.shape[1]) + 1 :],
        name=f"{look}, level {level}",
        game=config,
        level=level,
        moment=state.moments[0] if state.moments else None,
        pressed=tuple(keys[len(keys) - int(state.age) + 1 :]),
        simulator=simulator,
    )


def _recorded_game(sampling: Path) -> GameConfig | None:
    """Which game `workshop sample` recorded in a folder; None for other recordings."""
    try:
        settings = json.loads(sampling.read_text())["settings"]
        return GameConfig(name=settings["env"], look=cast(Look, settings["look"]))
    except (OSError, ValueError, KeyError, WorkshopError):
        return None


def _played_again(
    episode: Episode, config: GameConfig, until: int, simulator: Backend
) -> tuple[bytes | None, tuple[int, ...] | None]:
    """The game at frame `until` of an episode: the moment, where it can be saved, and what was
    pressed up to it; None and None where the game cannot be brought there."""
    begun = episode.first is not None and bool(episode.first[0])
    if not begun or episode.level_seed is None or episode.actions is None or config.is_gymnasium:
        return None, None
    level, keys = episode.level_seed, tuple(episode.actions[:until].tolist())
    try:
        world = GameWorld(replace(config, levels=(level, level + 1)), backend=simulator)
    except WorkshopError:  # no simulator, or one that does not load
        return None, None
    state = world.begin()
    for key in keys:
        _, state = world.step(state, torch.tensor([key]))
    world.close()
    shown = state.frames[0, -1].numpy().astype(int)
    if np.abs(shown - episode.frames[until]).mean() >= SAME:
        return None, None
    return (state.moments[0] if state.moments else None), keys

"""What notebook 01 shows without a simulator is what it would play with one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import SAMPLE
from workshop_lib.data.actions import NUM_ACTIONS, parse_actions
from workshop_lib.data.episodes import Episode
from workshop_lib.data.game import GameConfig
from workshop_lib.data.policies import POLICIES
from workshop_lib.data.sampling import sample
from workshop_lib.data.shards import find_shards, open_shard, read_all
from workshop_lib.worlds.game_world import GameWorld, branch


def recorded(folder: Path) -> list[Episode]:
    return [episode for path in find_shards(folder) for episode in read_all(open_shard(path))]


def assert_same_play(ones: list[Episode], others: list[Episode]) -> None:
    """Equal actions and levels; pixels may differ a little between builds of the game."""
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        assert one.level_seed == other.level_seed
        assert np.array_equal(one.actions, other.actions)
        assert np.abs(one.frames.astype(int) - other.frames).mean() < 1


@pytest.mark.parametrize("policy", POLICIES)
def test_recorded_policies(policy: str, procgen: None, tmp_path: Path) -> None:
    sample(
        str(tmp_path),
        look="mono",
        levels="0:10",
        policy=policy,  # type: ignore[arg-type]
        frames=3000,
        games=10,
        progress=False,
    )
    assert_same_play(recorded(SAMPLE / "policies" / policy), recorded(tmp_path))


def test_recorded_branches(procgen: None) -> None:
    look = GameConfig(look="easy")
    world = GameWorld(look)
    state = world.begin(levels=[288])
    for action in parse_actions("right x8, right-jump x8, nothing x10"):
        _, state = world.step(state, torch.tensor([action]))
    worlds, keys = GameWorld(look, count=NUM_ACTIONS), torch.arange(NUM_ACTIONS)
    states = branch(state, game=0, count=NUM_ACTIONS)
    for _ in range(14):
        _, states = worlds.step(states, keys)
    played = [
        Episode(frames, np.full(15, key, dtype=np.int32), level_seed=288)
        for key, frames in enumerate(states.frames[:, -15:].numpy())
    ]
    assert_same_play(recorded(SAMPLE / "branches"), played)

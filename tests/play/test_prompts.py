"""Prompts from recordings and levels, with the real game brought to the same moment."""

import numpy as np
import pytest
import torch

from tests.conftest import SAMPLE
from workshop_lib.data.actions import RIGHT
from workshop_lib.data.shards import read_episode
from workshop_lib.data.splits import split_shards
from workshop_lib.errors import WorkshopError
from workshop_lib.play.prompts import level_prompt, recorded_prompt
from workshop_lib.worlds.game_world import GameWorld


def test_a_recorded_prompt_is_a_stretch_of_its_episode():
    episode = read_episode(split_shards(SAMPLE / "easy", "test"), 2)
    prompt = recorded_prompt(SAMPLE / "easy", "test", episode=2, start=20, length=6)
    np.testing.assert_array_equal(prompt.frames, episode.frames[20:26])
    np.testing.assert_array_equal(prompt.actions, episode.actions[20:25])
    assert prompt.level == episode.level_seed
    near_its_end = recorded_prompt(SAMPLE / "easy", "test", 2, start=len(episode) - 2, length=6)
    np.testing.assert_array_equal(near_its_end.frames, episode.frames[-2:])


@pytest.mark.usefixtures("procgen")
@pytest.mark.parametrize(("folder", "number"), [("easy", 2), ("hard", 3)])
def test_the_game_goes_on_as_the_recording_does(folder, number):
    episode = read_episode(split_shards(SAMPLE / folder, "test"), number)
    prompt = recorded_prompt(SAMPLE / folder, "test", number, start=20, length=6)
    game = GameWorld(prompt.game)
    state = game.begin(moments=[prompt.moment])
    for t in range(25, 35):
        frame, state = game.step(state, torch.tensor([int(episode.actions[t])]))
        assert np.abs(frame[0].numpy().astype(int) - episode.frames[t + 1]).mean() < 1


@pytest.mark.usefixtures("procgen")
def test_no_moment_for_a_recording_that_begins_midway():
    shards = split_shards(SAMPLE / "easy", "test")
    midway = next(n for n in range(19) if not read_episode(shards, n).first[0])
    assert recorded_prompt(SAMPLE / "easy", "test", midway, length=4).moment is None


@pytest.mark.usefixtures("procgen")
def test_a_level_prompt_is_the_level():
    prompt = level_prompt(110003, actions=[RIGHT] * 12)
    assert prompt.actions.tolist() == [RIGHT] * 7 and len(prompt.frames) == 8
    game = GameWorld(prompt.game)
    state = game.begin(levels=[110003])
    for _ in range(12):
        _, state = game.step(state, torch.tensor([RIGHT]))
    assert torch.equal(state.frames[0, -8:], prompt.frames)
    assert game.begin(moments=[prompt.moment]).frames[0, -1].equal(prompt.frames[-1])
    assert level_prompt(110003, length=1).actions.shape == (0,)


@pytest.mark.parametrize(("episode", "start"), [(999, 0), (0, 500), (0, -1)])
def test_what_is_not_recorded_is_refused(episode, start):
    with pytest.raises(WorkshopError, match="episode"):
        recorded_prompt(SAMPLE / "easy", "test", episode, start)

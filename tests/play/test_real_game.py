"""The real game in the player without saved moments: played again from its level's beginning.

Each test runs in envpool, which has no saved moments, and in procgen with its own left out.
"""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import REPOSITORY, SAMPLE
from tests.data.test_envpool_game import needs_envpool
from workshop_lib.data.actions import JUMP, LEFT, RIGHT, RIGHT_JUMP
from workshop_lib.data.game import GameConfig
from workshop_lib.data.shards import read_episode
from workshop_lib.data.splits import split_shards
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.shift import scroll
from workshop_lib.evaluation.starts import collect_starts
from workshop_lib.generate import generate
from workshop_lib.media.video import read_video
from workshop_lib.play.choices import GAME, Choices
from workshop_lib.play.files import load_session, save_session
from workshop_lib.play.player import play
from workshop_lib.play.prompts import level_prompt, recorded_prompt
from workshop_lib.play.real_game import begin_game, is_replayed, simulator_of
from workshop_lib.play.session import PlaySession
from workshop_lib.worlds.copy_world import CopyWorld
from workshop_lib.worlds.game_world import GameWorld

LEVEL = 110_003
KEYS = [RIGHT] * 5 + [RIGHT_JUMP] * 6 + [LEFT] * 3 + [JUMP] * 4


@pytest.fixture(params=["procgen", pytest.param("envpool", marks=needs_envpool)])
def simulator(request):
    """One that is there."""
    if request.param == "procgen":
        request.getfixturevalue("procgen")
    return request.param


@pytest.fixture
def level(simulator):
    """The beginning of a level, with no saved moment."""
    return replace(level_prompt(LEVEL, simulator=simulator), moment=None)


def pressed(session, keys):
    return np.stack([session.step(key).frame for key in keys])


def by_hand(simulator, keys):
    """What the game shows from the beginning of the level on, without a player."""
    game = GameWorld(GameConfig(levels=(LEVEL, LEVEL + 1)), backend=simulator)
    state, frames = game.begin(), []
    for key in keys:
        frame, state = game.step(state, torch.tensor([key]))
        frames.append(frame[0].numpy())
    game.close()
    return np.stack(frames)


def test_the_game_itself_is_played_reset_and_taken_back(simulator, level):
    session = PlaySession(GameWorld(level.game, backend=simulator), level)
    assert is_replayed(session.world)
    assert simulator_of(session.world) == ("envpool" if simulator == "envpool" else "auto")
    waited = len(level.frames) - 1
    expected = by_hand(simulator, [4] * waited + KEYS)
    np.testing.assert_array_equal(session.now.frame, expected[waited - 1])
    np.testing.assert_array_equal(pressed(session, KEYS), expected[waited:])
    session.undo(9)
    np.testing.assert_array_equal(pressed(session, KEYS[-9:]), expected[-9:])
    session.reset()
    np.testing.assert_array_equal(pressed(session, KEYS), expected[waited:])
    before, after = (torch.tensor(expected[n])[None] for n in (waited, waited + 9))
    assert int(scroll(before, after)[0, 0]) < 0  # it ran to the right


def test_beside_a_dream_it_hears_the_same_keys_and_is_taken_back_with_it(simulator, level):
    session = PlaySession(CopyWorld(), level)
    expected = by_hand(simulator, [4] * (len(level.frames) - 1) + KEYS)[-len(KEYS) :]
    np.testing.assert_array_equal(session.now.real, level.frames[-1])
    assert session.now.psnr == 60
    np.testing.assert_array_equal([session.step(key).real for key in KEYS], expected)
    session.undo(5)
    np.testing.assert_array_equal(session.now.real, expected[-6])
    np.testing.assert_array_equal([session.step(key).real for key in KEYS[-5:]], expected[-5:])


def test_it_is_brought_to_the_moment_of_a_recording(simulator):
    prompt = recorded_prompt(SAMPLE / "easy", "test", 7, start=30, simulator=simulator)
    episode = read_episode(split_shards(SAMPLE / "easy", "test"), 7)
    assert (prompt.moment is None) == (simulator == "envpool")
    game, state = begin_game(replace(prompt, moment=None), simulator)
    for t in range(37, 50):
        shown = state.frames[0, -1].numpy().astype(int)
        assert np.abs(shown - episode.frames[t]).mean() < 1
        _, state = game.step(state, torch.tensor([int(episode.actions[t])]))


def test_a_dream_goes_on_where_the_game_was_left(simulator, level):
    game = PlaySession(GameWorld(level.game, backend=simulator), level)
    pressed(game, KEYS)
    here = game.here()
    assert here.pressed[-len(KEYS) :] == tuple(KEYS)
    dream = PlaySession(CopyWorld(), here)
    np.testing.assert_array_equal(dream.now.frame, game.now.frame)
    np.testing.assert_array_equal(dream.step(LEFT).real, game.step(LEFT).frame)
    back = PlaySession(GameWorld(level.game, backend=simulator), dream.here())
    np.testing.assert_array_equal(back.step(LEFT).frame, game.step(LEFT).frame)


def test_a_level_that_is_over_begins_again_and_can_be_taken_back(simulator, level):
    session = PlaySession(GameWorld(level.game, backend=simulator), level)
    beside = PlaySession(CopyWorld(), level)
    first = by_hand(simulator, [RIGHT_JUMP])[0]
    for _ in range(1000):
        last = session.now.frame
        note = session.step(RIGHT_JUMP).note
        assert beside.step(RIGHT_JUMP).note == note
        if note:
            break
    assert note in ("the coin!", "the level is over") and beside.now.real is None
    np.testing.assert_array_equal(session.step(RIGHT_JUMP).frame, first)
    session.undo(2)
    np.testing.assert_array_equal(session.now.frame, last)
    assert session.step(RIGHT_JUMP).note == note
    beside.undo()
    np.testing.assert_array_equal(beside.now.real, last)


def test_a_saved_session_comes_back_with_its_game(simulator, level, tmp_path):
    session = PlaySession(CopyWorld(), level, "copy")
    pressed(session, KEYS)
    save_session(session, tmp_path / "a.npz")
    again = load_session(tmp_path / "a.npz", CopyWorld(), "copy")
    for one, other in zip(again.steps, session.steps, strict=True):
        assert np.abs(one.real.astype(int) - other.real).mean() < 0.1  # "auto" may be the other one


@needs_envpool
@pytest.mark.parametrize("chosen", ["named", "alone"])
def test_the_player_in_envpool(chosen, monkeypatch):
    if chosen == "alone":  # as on a machine that has no procgen
        monkeypatch.setitem(sys.modules, "procgen", None)
    player = play(
        "dynamics-tiny",
        data=REPOSITORY / "data",
        simulator="envpool" if chosen == "named" else "auto",
    )
    assert player.session.prompt.moment is None
    player.session.step(RIGHT)
    assert simulator_of(player.session._game) == "envpool"
    player.world.value = GAME
    session = player.session
    assert player.said.value == "" and session.is_game
    np.testing.assert_array_equal(session.now.frame, session.prompt.frames[-1])
    assert simulator_of(session.world) == "envpool"
    seen = pressed(session, KEYS)
    session.undo(4)
    np.testing.assert_array_equal(pressed(session, KEYS[-4:]), seen[-4:])
    player.kind.value = "this very moment"
    player.world.value = "dynamics-tiny"
    np.testing.assert_array_equal(player.session.now.frame, seen[-1])
    np.testing.assert_array_equal(player.session.now.real, seen[-1])


@needs_envpool
def test_what_else_needs_a_game_in_envpool(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "procgen", None)
    out = tmp_path / "dream.mp4"
    generate(
        str(REPOSITORY / "data" / "pretrained" / "next_frame-tiny.safetensors"),
        out=str(out), prompt=f"level:{LEVEL}", actions="right", frames=4, length=4,
    )  # fmt: skip
    assert len(read_video(out)) == 8
    with pytest.raises(WorkshopError, match=r"cannot save the moments .*--starts-file"):
        collect_starts(2)


def test_a_machine_without_any_simulator_plays_its_dreams(monkeypatch):
    for name in ("procgen", "envpool"):
        monkeypatch.setitem(sys.modules, name, None)
    prompt = recorded_prompt(SAMPLE / "easy", "test", 7, start=30)
    assert prompt.moment is None and prompt.pressed is None
    assert PlaySession(CopyWorld(), prompt).step(RIGHT).real is None
    assert GAME not in Choices(REPOSITORY / "data").worlds
    with pytest.raises(WorkshopError, match="simulator 'envpool' is not installed; here is none"):
        Choices(REPOSITORY / "data", simulator="envpool")

"""Any Gymnasium environment behind the Simulator protocol."""

from __future__ import annotations

import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Discrete

from workshop_lib.data.game import Game, GameConfig
from workshop_lib.data.gymnasium_game import shrink
from workshop_lib.errors import WorkshopError

CARTPOLE = "gymnasium:CartPole-v1"


class Lamp(gymnasium.Env):
    """Shows the seed, the number of steps and the last action as three flat bands of gray."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = Discrete(1)
    action_space = Discrete(4, start=10)
    life = 5

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        self.level, self.steps, self.action = seed, 0, 0
        return 0, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.steps, self.action = self.steps + 1, action
        return 0, float(self.steps), self.steps == self.life, False, {}

    def render(self):
        picture = np.zeros((96, 128, 3), np.uint8)
        picture[:32], picture[32:64], picture[64:] = self.level, self.steps, self.action
        return picture


class Blind(Lamp):
    def render(self):
        return None


gymnasium.register("WorkshopLamp-v0", Lamp)
gymnasium.register("WorkshopBlind-v0", Blind)


def read_lamp(frames: np.ndarray) -> np.ndarray:
    """What the three bands say, (N, 3): level, steps, action."""
    return frames[:, [5, 30, 60], 32, 0].astype(int)


def test_the_frame_after_an_action_shows_that_action_and_ends_show_the_next_level():
    with Game(GameConfig("gymnasium:WorkshopLamp-v0", levels=(50, 250)), count=3, seed=1) as game:
        assert game.num_actions == 4
        shown = game.observe()
        assert shown.first.all() and not shown.reward.any()
        steps = np.zeros(3, int)
        rng = np.random.default_rng(0)
        for _ in range(23):
            previous_levels = game.level_seeds()
            actions = rng.integers(0, 4, 3)
            dropped = rng.random(3) < 0.1
            game.act(actions, reset=dropped)
            frames, first, reward = game.observe()
            steps = np.where(dropped, 0, steps + 1)
            np.testing.assert_array_equal(first, dropped | (steps == Lamp.life))
            np.testing.assert_array_equal(reward, steps)  # the ended episode's, where first
            level, shown_steps, shown_action = read_lamp(frames).T
            np.testing.assert_array_equal(level, game.level_seeds())
            np.testing.assert_array_equal(shown_steps, np.where(first, 0, steps))
            np.testing.assert_array_equal(shown_action, np.where(first, 0, actions + 10))
            np.testing.assert_array_equal(level[~first], previous_levels[~first])
            steps[first] = 0


def test_levels_stay_in_their_range_and_one_game_does_not_steer_another():
    def play(levels: tuple[int, int], dropped: list[bool]) -> np.ndarray:
        config = GameConfig("gymnasium:WorkshopLamp-v0", levels=levels)
        seen = []
        with Game(config, count=2, seed=7) as game:
            for _ in range(30):
                seen.append(game.level_seeds())
                game.act(np.zeros(2, int), reset=np.array(dropped))
        return np.stack(seen)

    train, test = play((0, 100), [False, False]), play((100, 130), [True, True])
    assert train.max() < 100 and test.min() >= 100 and test.max() < 130
    assert len(np.unique(test)) > 10
    np.testing.assert_array_equal(train, play((0, 100), [False, False]))
    np.testing.assert_array_equal(train[:, 1], play((0, 100), [True, False])[:, 1])
    assert (train[:, 0] != train[:, 1]).any()


def test_cartpole_shows_what_the_environment_renders_after_each_action():
    with Game(GameConfig(CARTPOLE, levels=(3, 4)), count=1, seed=0) as game:
        reference = gymnasium.make("CartPole-v1", render_mode="rgb_array")
        rng = np.random.default_rng(0)
        ends = 0
        reference.reset(seed=3)
        for _ in range(120):
            np.testing.assert_array_equal(game.observe().frames[0], shrink(reference.render()))
            action = int(rng.integers(2))
            game.act(np.array([action]))
            _, reward, terminated, truncated, _ = reference.step(action)
            frame, first, seen_reward = (value[0] for value in game.observe())
            assert first == (terminated or truncated)
            assert seen_reward == reward
            if first:
                ends += 1
                # The last frame of the ended episode is not shown: the next one has begun.
                assert (frame != shrink(reference.render())).any()
                reference.reset(seed=3)
        reference.close()
    assert ends >= 3


def test_the_same_level_and_actions_render_identically():
    actions = np.random.default_rng(2).integers(0, 2, 60)

    def episode(level: int) -> np.ndarray:
        with Game(GameConfig(CARTPOLE, levels=(level, level + 1)), seed=level) as game:
            frames = [game.observe().frames]
            for action in actions:
                game.act(np.array([action]))
                frames.append(game.observe().frames)
        return np.stack(frames)

    np.testing.assert_array_equal(episode(11), episode(11))
    assert (episode(11) != episode(12)).any()


def test_frames_handed_out_are_not_changed_by_later_steps():
    with Game(GameConfig(CARTPOLE), count=2, seed=0) as game:
        shown = game.observe()
        kept = [np.copy(value) for value in shown]
        levels = game.level_seeds()
        kept_levels = levels.copy()
        for _ in range(40):
            game.act(np.array([0, 1]))
        for value, copy in zip(shown, kept, strict=True):
            np.testing.assert_array_equal(value, copy)
        np.testing.assert_array_equal(levels, kept_levels)
        assert (game.level_seeds() != kept_levels).all()


def test_shrinking_averages_areas_and_keeps_thin_lines():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (128, 256, 3), dtype=np.uint8)
    mean = picture.reshape(64, 2, 64, 4, 3).mean((1, 3))
    assert np.abs(shrink(picture) - mean).max() <= 1

    white = np.full((400, 600, 3), 255, np.uint8)
    for column in range(0, 600, 7):
        line = white.copy()
        line[:, column] = 0  # one pixel wide: sampling single pixels would mostly miss it
        assert shrink(line).min() < 240

    small = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(shrink(small), small.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoSuchGame-v0", "NoSuchGame"),
        ("not a name", "not a name"),
        ("no_such_module:Game-v0", "no_such_module"),
        ("Pendulum-v1", "discrete actions"),
        ("WorkshopBlind-v0", "does not render"),
    ],
)
def test_unusable_environments_are_refused_in_one_line(name, message):
    with pytest.raises(WorkshopError, match=message) as caught:
        Game(GameConfig(f"gymnasium:{name}"))
    assert "\n" not in str(caught.value)


def test_moments_are_neither_saved_nor_restored():
    with Game(GameConfig("gymnasium:WorkshopLamp-v0", levels=(0, 9))) as game:
        assert not game.can_save
        for source in (game, game.simulator):
            with pytest.raises(WorkshopError, match="cannot save"):
                source.save()
            with pytest.raises(WorkshopError, match="cannot restore"):
                source.restore([b""])


def test_cartpole_renders_without_a_screen_and_prints_nothing():
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER", "XDG_RUNTIME_DIR")
    environment = {key: value for key, value in os.environ.items() if key not in hidden}
    script = (
        "from workshop_lib.data.game import Game, GameConfig\n"
        "for name in ('CartPole-v1', 'FrozenLake-v1'):\n"
        "    assert Game(GameConfig(f'gymnasium:{name}')).observe().frames.std() > 5\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""

"""Any Gymnasium environment with discrete actions that can draw itself, as a Simulator."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from workshop_lib.data.game import RESET, GameConfig, Observation
from workshop_lib.errors import WorkshopError

FRAME_SIZE = 64


class GymnasiumSimulator:
    """N copies of one environment, stepped in turn in this process.

    A level is the seed that an episode is reset with. Each game draws its own from
    `config.levels`, so disjoint ranges split the data here as they do in Procgen, and one game's
    levels do not depend on when the others end. `config.look` has no meaning here.

    Not Gymnasium's own vector environment, because its automatic reset leaves the seed of the new
    episode to the environment, where nobody can read it.

    Raises WorkshopError if the environment is unknown, has other than discrete actions, or cannot
    render rgb_array.
    """

    can_save = False

    def __init__(self, config: GameConfig, count: int, seed: int) -> None:
        name = config.name.removeprefix("gymnasium:")
        self._envs = [_open(name) for _ in range(count)]
        space = self._envs[0].action_space
        self.num_actions = int(space.n)
        self._first_action = int(space.start)
        self._level_range = config.levels
        self._generators = np.random.default_rng(seed % 2**31).spawn(count)
        self._levels = np.zeros(count, np.int64)
        for game in range(count):
            self._begin(game)
        self._show(np.ones(count, bool), np.zeros(count, np.float32))

    def observe(self) -> Observation:
        return self._shown

    def act(self, actions: np.ndarray) -> None:
        first = np.zeros(len(self._envs), bool)
        reward = np.zeros(len(self._envs), np.float32)
        for game, (env, action) in enumerate(zip(self._envs, actions, strict=True)):
            if action == RESET:
                first[game] = True
            else:
                _, reward[game], terminated, truncated, _ = env.step(
                    int(action) + self._first_action
                )
                first[game] = terminated or truncated
            if first[game]:
                self._begin(game)
        self._show(first, reward)

    def level_seeds(self) -> np.ndarray:
        return self._levels.copy()

    def save(self) -> list[bytes]:
        raise WorkshopError("a Gymnasium environment cannot save a moment; only procgen can")

    def restore(self, moments: Sequence[bytes]) -> None:
        raise WorkshopError("a Gymnasium environment cannot restore a moment; only procgen can")

    def close(self) -> None:
        for env in self._envs:
            env.close()

    def _begin(self, game: int) -> None:
        """Starts another episode in one game, on a level drawn from the range."""
        level = int(self._generators[game].integers(*self._level_range))
        self._envs[game].reset(seed=level)
        self._levels[game] = level

    def _show(self, first: np.ndarray, reward: np.ndarray) -> None:
        frames = np.stack([shrink(env.render()) for env in self._envs])
        self._shown = Observation(frames, first, reward)


def shrink(picture: np.ndarray) -> np.ndarray:
    """A picture at the size of Procgen's frames: uint8 (H, W, 3) to uint8 (64, 64, 3).

    Each new pixel is the mean of the area that it covers, so thin lines fade but never vanish.
    The aspect ratio is not kept: a wide picture is squeezed to a square.
    """
    small = Image.fromarray(picture).resize((FRAME_SIZE, FRAME_SIZE), Image.Resampling.BOX)
    return np.asarray(small)


def _open(name: str) -> Any:
    """One environment, reset once and seen to draw itself."""
    _quiet_pygame()
    import gymnasium

    try:
        env = gymnasium.make(name, render_mode="rgb_array", disable_env_checker=True)
    except Exception as error:  # other people's constructors raise anything
        raise WorkshopError(
            f"Gymnasium cannot make {name!r} with render_mode='rgb_array': {_one_line(error)}"
        ) from error
    try:
        _check(name, env)
    except WorkshopError:
        env.close()
        raise
    return env


def _quiet_pygame() -> None:
    """Lets pygame, which most environments draw with, run without a screen and a greeting."""
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    has_screen = "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    if sys.platform.startswith("linux") and not has_screen:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


def _check(name: str, env: Any) -> None:
    from gymnasium.spaces import Discrete

    if not isinstance(env.action_space, Discrete):
        raise WorkshopError(
            f"{name!r} has actions {env.action_space}: choose an environment with discrete actions"
        )
    try:
        env.reset(seed=0)
        picture = env.render()
    except Exception as error:  # a missing drawing library, most often
        raise WorkshopError(f"{name!r} does not render: {_one_line(error)}") from error
    is_picture = isinstance(picture, np.ndarray) and picture.dtype == np.uint8
    if not (is_picture and picture.ndim == 3 and picture.shape[2] == 3):
        raise WorkshopError(
            f"{name!r} does not render rgb_array frames (uint8, H x W x 3): choose another one"
        )


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())

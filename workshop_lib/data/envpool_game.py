"""The Procgen inside the envpool package as a Simulator, where no procgen wheel exists.

It is the same game: with the same seed, the same levels in the same order, the same episode ends
and rewards. Up to envpool 1.2.5, which draws with Qt 5 as procgen does, its frames are equal with
the mono look and differ by less than .02 of 255 on average with textures. From 1.2.6 on it draws
with Qt 6: textures and figures sit up to a pixel elsewhere (a mean of 2.2 of 255). A moment can be
neither saved nor restored.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import shorten
from types import ModuleType

import numpy as np

from workshop_lib.data.actions import NUM_ACTIONS
from workshop_lib.data.game import GameConfig, Observation
from workshop_lib.data.procgen_game import look_options
from workshop_lib.errors import WorkshopError

# pip warns that gym3, which procgen uses, wants an older glfw; only gym3's own windows need that.
INSTALL = 'pip install "envpool>=1.2,<1.2.6"'


class EnvpoolSimulator:
    """N Procgen games on `threads` threads; bit-equal for equal seeds, whatever the threads.

    The threads do not survive a fork: open the simulator in the process that uses it, and start
    data loader workers by spawn.

    Raises WorkshopError if envpool or a library that it needs is missing.
    """

    num_actions = NUM_ACTIONS
    can_save = False

    def __init__(self, config: GameConfig, count: int, seed: int, threads: int) -> None:
        options = look_options(config)
        mode = options.pop("distribution_mode")
        start, stop = config.levels
        self._pool = _load_envpool().make_gymnasium(
            f"{config.name.capitalize()}{mode.capitalize()}-v0",
            num_envs=count,
            num_threads=threads,
            seed=seed % 2**31,
            start_level=start,
            num_levels=stop - start,
            channel_first=False,
            **options,
        )
        frames, info = self._pool.reset()
        self._levels = info["level_seed"].astype(np.int64)
        self._shown = Observation(frames, np.ones(count, bool), np.zeros(count, np.float32))

    def observe(self) -> Observation:
        return self._shown

    def act(self, actions: np.ndarray) -> None:
        # The game inside is Procgen's own, so RESET (-1) ends a level here as it does there.
        frames, reward, terminated, truncated, _ = self._pool.step(actions)
        first = terminated | truncated
        ended = np.flatnonzero(first)
        if ended.size:
            # Procgen goes on to the next level within the step that ends one. envpool shows the
            # ended level once more and begins the next at its next step: have that step now.
            frames[ended], info = self._pool.reset(ended)
            self._levels[ended] = info["level_seed"]
        self._shown = Observation(frames, first, reward)

    def level_seeds(self) -> np.ndarray:
        return self._levels.copy()

    def save(self) -> list[bytes]:
        raise WorkshopError("envpool cannot save a moment; install procgen for that")

    def restore(self, moments: Sequence[bytes]) -> None:
        raise WorkshopError("envpool cannot restore a moment; install procgen for that")

    def close(self) -> None:
        self._pool.close()


def _load_envpool() -> ModuleType:
    """The package, once its Procgen has proved to load."""
    try:
        import envpool

        # Without Qt on Linux the package still imports, and only this name fails.
        from envpool.procgen import ProcgenEnvSpec  # noqa: F401
    except (ImportError, OSError) as error:  # OSError: its asset packages are missing
        reason = shorten(str(error), 150)
        raise WorkshopError(
            f"envpool does not load here ({reason}): install it with `{INSTALL}` on Python 3.11 "
            f"or 3.12, and its Qt 5 with `apt-get install libqt5gui5` on Debian or Ubuntu, "
            f"`brew install qt@5` on a Mac"
        ) from error
    return envpool

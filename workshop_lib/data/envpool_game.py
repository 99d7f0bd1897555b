"""The Procgen inside the envpool package as a Simulator, where no procgen wheel exists.

It is the same game: with the same seed, the same levels in the same order, the same episode ends
and rewards. Its drawing differs by a hair (a mean of about .01 of 255 with textures, nothing with
the mono look), and a moment can be neither saved nor restored.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from workshop_lib.data.actions import NUM_ACTIONS
from workshop_lib.data.game import GameConfig, Observation
from workshop_lib.data.procgen_game import look_options
from workshop_lib.errors import WorkshopError


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

        # Without Qt the package still imports, and only this name fails.
        from envpool.procgen import ProcgenEnvSpec  # noqa: F401
    except ImportError as error:
        reason = str(error).splitlines()[0]
        raise WorkshopError(
            f"envpool does not load here ({reason}): install it with `pip install envpool` "
            f"(Python 3.11 or newer) and, on Linux, its Qt with `apt-get install libqt5gui5`"
        ) from error
    return envpool

"""The procgen package (or procgen-mirror, the same game for newer Pythons) as a Simulator."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from workshop_lib.data.actions import NUM_ACTIONS
from workshop_lib.data.game import GameConfig, Observation
from workshop_lib.errors import WorkshopError


def look_options(config: GameConfig) -> dict[str, Any]:
    """Procgen's constructor options for a look."""
    if config.look == "mono":
        return {
            "distribution_mode": "easy",
            "use_monochrome_assets": True,
            "use_backgrounds": False,
            "restrict_themes": True,
        }
    return {"distribution_mode": config.look}


class ProcgenSimulator:
    """N Procgen games on `threads` threads; bit-equal for equal seeds, whatever the threads."""

    num_actions = NUM_ACTIONS
    can_save = True

    def __init__(self, config: GameConfig, count: int, seed: int, threads: int) -> None:
        start, stop = config.levels
        self._env = _procgen_class()(
            num=count,
            env_name=config.name,
            start_level=start,
            num_levels=stop - start,
            rand_seed=seed % 2**31,
            num_threads=threads,
            **look_options(config),
        )

    def observe(self) -> Observation:
        reward, observation, first = self._env.observe()
        return Observation(observation["rgb"], first, reward)

    def act(self, actions: np.ndarray) -> None:
        self._env.act(actions)

    def level_seeds(self) -> np.ndarray:
        # The buffer behind get_info(), which builds a dictionary per game: 20 times slower. The
        # package is archived and pinned, so a private name cannot change under us.
        return self._env._info["level_seed"].astype(np.int64)

    def save(self) -> list[bytes]:
        return [zlib.crc32(s).to_bytes(4, "big") + s for s in self._env.callmethod("get_state")]

    def restore(self, moments: Sequence[bytes]) -> None:
        for moment in moments:
            # Procgen ends the whole process over a damaged state: the checksum is asked first.
            if zlib.crc32(moment[4:]).to_bytes(4, "big") != moment[:4]:
                raise WorkshopError("a saved moment must be the bytes that Game.save returned")
        self._env.callmethod("set_state", [moment[4:] for moment in moments])

    def close(self) -> None:
        self._env.close()


def _procgen_class() -> Any:
    """ProcgenGym3Env, imported without the notice that the old gym package prints."""
    if "gym_notices.notices" not in sys.modules:
        notices = ModuleType("gym_notices.notices")
        notices.notices = {}  # type: ignore[attr-defined]
        sys.modules["gym_notices.notices"] = notices
    from procgen import ProcgenGym3Env

    return ProcgenGym3Env

"""The real game in the player: brought to a prompt's moment, and able to go back in any simulator.

procgen saves and restores moments. envpool cannot, but the same keys from the beginning of a level
always lead to the same moment there, so that the level is played again up to it: .1 ms for a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from workshop_lib.data.envpool_game import EnvpoolSimulator
from workshop_lib.data.game import (
    RESET,
    Backend,
    GameConfig,
    Observation,
    Simulator,
    available_backends,
)
from workshop_lib.errors import WorkshopError
from workshop_lib.play.prompts import Prompt
from workshop_lib.worlds.game_world import GameState, GameWorld


class Replayed:
    """One game, in one level, whose moments are what was pressed since the level began."""

    can_save = True

    def __init__(self, inner: Simulator) -> None:
        self.inner, self.num_actions = inner, inner.num_actions
        self._pressed: list[int] = []

    def observe(self) -> Observation:
        return self.inner.observe()

    def act(self, actions: np.ndarray) -> None:
        self.inner.act(actions)
        if self.inner.observe().first[0]:  # the level was over, and has begun again
            self._pressed = []
        else:
            self._pressed.append(int(actions[0]))

    def level_seeds(self) -> np.ndarray:
        return self.inner.level_seeds()

    def save(self) -> list[bytes]:
        return [bytes(self._pressed)]

    def restore(self, moments: Sequence[bytes]) -> None:
        for key in (RESET, *moments[0]):
            self.inner.act(np.array([key], dtype=np.int32))
        self._pressed = list(moments[0])

    def close(self) -> None:
        self.inner.close()


def begin_game(
    prompt: Prompt, simulator: Backend = "auto", world: GameWorld | None = None
) -> tuple[GameWorld, GameState]:
    """The real game at a prompt's moment; where that is not known, at the beginning of its level.

    world: one that is open already; it is used again if it fits.

    Raises WorkshopError where there is no such simulator, or the prompt is of no level.
    """
    if prompt.moment is not None and _restores(simulator):
        config = prompt.game or (world.config if world else GameConfig())
        if world is None or is_replayed(world) or not _same_look(world.config, config):
            world = GameWorld(config, backend="procgen")
        return world, world.begin(moments=[prompt.moment])
    if prompt.game is None or prompt.level is None or prompt.game.is_gymnasium:
        raise WorkshopError(
            f"the real game cannot begin at {prompt.name or 'this prompt'}: choose a level"
        )
    config = replace(prompt.game, levels=(prompt.level, prompt.level + 1))
    if world is None or not is_replayed(world) or world.config != config:
        world = GameWorld(config, backend=simulator)
        world.game.simulator = Replayed(world.game.simulator)
        world.game.can_save = True
    return world, world.begin(moments=[bytes(prompt.pressed or ())])


def knows_moment(prompt: Prompt) -> bool:
    """Whether the real game can be brought to a prompt's moment here."""
    if prompt.moment is not None and _restores(prompt.simulator):
        return True
    return prompt.pressed is not None and bool(available_backends())


def moment_of(world: GameWorld, state: GameState) -> tuple[bytes | None, tuple[int, ...] | None]:
    """A moment of the game as a prompt holds it: saved by procgen, or as what was pressed."""
    if not state.moments:
        return None, None
    if is_replayed(world):
        return None, tuple(state.moments[0])
    return state.moments[0], None


def is_replayed(world: GameWorld) -> bool:
    """Whether the game goes back by playing its level again."""
    return isinstance(world.game.simulator, Replayed)


def simulator_of(world: GameWorld) -> Backend:
    """The simulator that a world of the real game runs in."""
    simulator = world.game.simulator
    inner = simulator.inner if isinstance(simulator, Replayed) else simulator
    return "envpool" if isinstance(inner, EnvpoolSimulator) else "auto"


def _restores(simulator: Backend) -> bool:
    return simulator != "envpool" and "procgen" in available_backends()


def _same_look(one: GameConfig, other: GameConfig) -> bool:
    return (one.name, one.look) == (other.name, other.look)

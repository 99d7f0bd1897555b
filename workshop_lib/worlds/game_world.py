"""The real game as a world: what every dreamed world is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from workshop_lib.data.game import Backend, Game, GameConfig, level_moment
from workshop_lib.errors import WorkshopError

HISTORY = 32  # frames kept for prompts


@dataclass(frozen=True)
class GameState:
    """One moment of B real games. Never changes: step it as often as you like.

    moments: what the game needs to go on from here; one byte string per game. Empty where the
        simulator cannot save.
    frames: uint8 (B, T, H, W, C), the last T <= 32 frames up to now.
    actions: int64 (B, T - 1), what was pressed after each of them but the last.
    age: int64 (B,), how many of the last frames, the newest included, show the current level.
    reward: float32 (B,), what the last action earned; 10 for the coin.
    level_seeds: int64 (B,).
    """

    moments: tuple[bytes, ...]
    frames: Tensor
    actions: Tensor
    age: Tensor
    reward: Tensor
    level_seeds: Tensor


class GameWorld:
    """Real CoinRun, or another game, behind the two verbs of all worlds.

    A state can be stepped any number of times, with other actions each time: one moment branches
    into counterfactual futures. Where the simulator cannot save (envpool, Gymnasium), only the
    newest state can be stepped.

    Args:
        config: which game and levels.
        count: B, how many games are played at once.
        seed: of the choice of levels.
    """

    def __init__(
        self,
        config: GameConfig | None = None,
        count: int = 1,
        seed: int = 0,
        backend: Backend = "auto",
    ) -> None:
        self.config = config or GameConfig()
        self.game = Game(self.config, count, seed, backend=backend)
        self.count, self.num_actions = count, self.game.num_actions
        self._newest: GameState | None = None  # where the games are right now

    def begin(
        self, levels: Sequence[int] | None = None, moments: Sequence[bytes] | None = None
    ) -> GameState:
        """Starts at levels, at saved moments, or wherever the games are right now.

        levels: B level seeds; the game stays in its level for good.
        moments: B saved moments, `state.moments` of this or another world.

        Raises WorkshopError for a wrong number of them, or where the simulator cannot save.
        """
        if levels is not None and moments is not None:
            raise WorkshopError("begin at levels or at moments, not at both")
        if levels is not None:
            moments = [level_moment(self.config, int(level)) for level in levels]
        if moments is not None:
            self.game.restore(moments)
        return self._state(None, None)

    def step(self, state: GameState, action: Tensor) -> tuple[Tensor, GameState]:
        """Presses `action`, int64 (B,), at `state`: the next frame, uint8 (B, H, W, C), and state.

        Raises WorkshopError for actions that the game does not have.
        """
        if state is not self._newest:
            if not state.moments:
                raise WorkshopError(
                    "this simulator cannot go back: only the newest state can be stepped"
                )
            self.game.restore(state.moments)
        self.game.act(np.asarray(action))
        following = self._state(state, torch.as_tensor(action, dtype=torch.int64))
        return following.frames[:, -1], following

    def prompt(self, state: GameState) -> tuple[Tensor, Tensor]:
        """What another world begins with to dream on from here: frames uint8 (B, T, H, W, C) and
        actions int64 (B, T - 1). As long as no game's past reaches into a level before."""
        length = min(int(state.age.min()), state.frames.shape[1])
        return state.frames[:, -length:], state.actions[:, state.actions.shape[1] - length + 1 :]

    def close(self) -> None:
        self.game.close()

    def _state(self, before: GameState | None, action: Tensor | None) -> GameState:
        observation = self.game.observe()
        newest = torch.tensor(observation.frames)[:, None]
        if before is None or action is None:
            frames, actions = newest, torch.zeros(self.count, 0, dtype=torch.int64)
            age = torch.ones(self.count, dtype=torch.int64)
        else:
            frames = torch.cat([before.frames, newest], dim=1)[:, -HISTORY:]
            actions = torch.cat([before.actions, action[:, None]], dim=1)[:, -(HISTORY - 1) :]
            age = torch.where(torch.tensor(observation.first), 1, before.age + 1)
        self._newest = GameState(
            moments=tuple(self.game.save()) if self.game.can_save else (),
            frames=frames,
            actions=actions,
            age=age,
            reward=torch.tensor(observation.reward),
            level_seeds=torch.tensor(self.game.level_seeds()),
        )
        return self._newest


def branch(state: GameState, game: int, count: int) -> GameState:
    """Game number `game` of a state, `count` times over: one moment, many futures.

    Step the result with a GameWorld of `count` games.
    """
    rows = [game] * count
    return replace(
        state,
        moments=tuple(state.moments[row] for row in rows),
        frames=state.frames[rows],
        actions=state.actions[rows],
        age=state.age[rows],
        reward=state.reward[rows],
        level_seeds=state.level_seeds[rows],
    )

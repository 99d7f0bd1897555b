"""The real game, played on and on: what a perfect world's long dreams would be measured at.

With RIGHT held, the real player soon stands before a wall and stays there, and one who runs and
jumps falls into a pit and begins anew. So shares of 100% are not what to ask of a dream.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from workshop_lib.data.game import GameConfig, Look
from workshop_lib.data.policies import make_policy
from workshop_lib.data.sampling import parse_levels
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.drift import DriftReport, long_play, measure_drift
from workshop_lib.evaluation.metrics import write_json
from workshop_lib.evaluation.starts import PROMPT
from workshop_lib.worlds.game_world import GameState, GameWorld


@dataclass(frozen=True)
class GameReport:
    """drift: of the real game, by what is pressed. restarts: how often a game began its level
    anew, on average, for the player had died or had the coin."""

    look: str
    drift: dict[str, DriftReport]
    restarts: dict[str, float]

    def table(self) -> str:
        return "\n".join(
            f"{name}: {drift.line()}; {self.restarts[name]:.1f} restarts a game"
            for name, drift in self.drift.items()
        )


class RealPlay:
    """The real game from one moment on, with the two verbs of all worlds."""

    def __init__(self, world: GameWorld, moment: GameState) -> None:
        self.world, self.moment = world, moment
        self.num_actions, self.context = world.num_actions, PROMPT
        self.restarts = 0

    def begin(self, frames: Tensor, actions: Tensor) -> GameState:
        """The moment itself: the prompt is what led there."""
        return self.moment

    def step(self, state: GameState, action: Tensor) -> tuple[Tensor, GameState]:
        frame, following = self.world.step(state, action)
        self.restarts += int((following.age == 1).sum())
        return frame, following


def evaluate(
    look: Look = "easy",
    levels: str = "test",
    games: int = 32,
    long: int = 500,
    seed: int = 0,
    out: str | None = None,
) -> GameReport:
    """Measures the real game as `workshop evaluate world` measures long dreams, under the same
    three kinds of keys. Needs the simulator.

    Args:
        look: mono, easy or hard.
        levels: START:STOP or train, val or test.
        games: how many, each another level; one that ends begins the same level anew.
        long: frames of each.
        seed: of the keys.
        out: folder for report.json.

    Raises WorkshopError for more games than levels.
    """
    first, end = parse_levels(levels)
    if not 0 < games <= end - first:
        raise WorkshopError(
            f"--games {games}: must be 1 to {end - first}, one for each of --levels"
        )
    world = GameWorld(GameConfig(look=look), games)
    state = world.begin(range(first, first + games))
    policy, begun = make_policy("control", games, seed), np.ones(games, dtype=bool)
    for _ in range(PROMPT - 1):
        pressed, _ = policy.choose(begun)
        _, state = world.step(state, torch.from_numpy(pressed))
        begun = state.age.numpy() == 1
    drift, restarts = {}, {}
    for name, keys in long_play(games, long, seed).items():
        real = RealPlay(world, state)
        drift[name], _ = measure_drift(real, *world.prompt(state), keys)
        restarts[name] = real.restarts / games
    world.close()
    report = GameReport(look, drift, restarts)
    print(report.table())
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        write_json(Path(out) / "report.json", report)
        print(f"wrote {out}")
    return report

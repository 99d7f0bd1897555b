"""How recorded games are played: what data a world model will see.

A policy steps N games at once. `choose(first)` gets which games have just begun a level, bool
(N,), and returns `(actions, reset)`: int64 (N,) in 0..14, and bool (N,) for the games that should
drop their level and start another.
"""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import numpy as np

from workshop_lib.data.actions import NUM_ACTIONS, combine
from workshop_lib.errors import WorkshopError

PolicyName = Literal["random", "sticky", "runner", "mixed", "control"]
POLICIES: tuple[str, ...] = get_args(PolicyName)


class Policy(Protocol):
    def choose(self, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...


def make_policy(
    name: str, count: int, seed: int | np.random.SeedSequence, num_actions: int = NUM_ACTIONS
) -> Policy:
    """A policy for `count` games.

    Raises WorkshopError for an unknown name, or if the game's actions are not Procgen's and the
    policy needs them ("random" and "sticky" play anything).
    """
    rng = np.random.default_rng(seed)
    if name == "random":
        return UniformPolicy(count, rng, num_actions, hold=(1, 1))
    if name == "sticky":
        # The last six of Procgen's fifteen do nothing in CoinRun: nine are worth holding.
        effective = 9 if num_actions == NUM_ACTIONS else num_actions
        return UniformPolicy(count, rng, effective, hold=(2, 8))
    if name not in POLICIES:
        raise WorkshopError(f"unknown policy {name!r}: choose one of {', '.join(POLICIES)}")
    if num_actions != NUM_ACTIONS:
        raise WorkshopError(f"policy {name!r} needs Procgen's actions; use random or sticky here")
    if name == "runner":
        return SkillPolicy(count, rng, right=(0.85,), vertical=(0.0, 0.5, 0.5))
    if name == "mixed":
        return SkillPolicy(count, rng, right=(0.4, 0.6, 0.8, 0.95), vertical=(0.06, 0.42, 0.52))
    return ControlPolicy(count, rng)


class UniformPolicy:
    """Any action with equal chance, each held for `hold` frames (both ends included)."""

    def __init__(
        self, count: int, rng: np.random.Generator, num_actions: int, hold: tuple[int, int]
    ) -> None:
        self.rng, self.num_actions, self.hold = rng, num_actions, hold
        self.actions = np.zeros(count, dtype=np.int64)
        self.left = np.zeros(count, dtype=np.int64)  # frames for which the action is still held
        self.no_reset = np.zeros(count, dtype=bool)

    def choose(self, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        fresh = (self.left == 0) | first
        draw = self.rng.integers(0, self.num_actions, fresh.shape)
        self.actions = np.where(fresh, draw, self.actions)
        hold = self.rng.integers(self.hold[0], self.hold[1] + 1, fresh.shape)
        self.left = np.where(fresh, hold, self.left) - 1
        return self.actions, self.no_reset


class SkillPolicy:
    """A player whose skill changes with every episode.

    Per episode: how long a key is held (2 to 8 frames), and how likely it is RIGHT (one of
    `right`); else left or none with equal chance. `vertical` gives the chances of down, none and
    jump.
    """

    def __init__(
        self,
        count: int,
        rng: np.random.Generator,
        right: tuple[float, ...],
        vertical: tuple[float, float, float],
    ) -> None:
        self.rng = rng
        self.skills, self.vertical = np.array(right), np.cumsum(vertical)
        self.actions = np.zeros(count, dtype=np.int64)
        self.left = np.zeros(count, dtype=np.int64)
        self.hold = np.ones(count, dtype=np.int64)
        self.skill = np.full(count, self.skills[0])
        self.no_reset = np.zeros(count, dtype=bool)

    def choose(self, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rng, size = self.rng, first.shape
        self.hold = np.where(first, rng.integers(2, 9, size), self.hold)
        self.skill = np.where(first, rng.choice(self.skills, size), self.skill)
        fresh = (self.left == 0) | first
        go_right = rng.random(size) < self.skill
        horizontal = np.where(go_right, 1, -rng.integers(0, 2, size))
        vertical = np.searchsorted(self.vertical[:2], rng.random(size), side="right") - 1
        self.actions = np.where(fresh, combine(horizontal, vertical), self.actions)
        self.left = np.where(fresh, self.hold, self.left) - 1
        return self.actions, self.no_reset


class ControlPolicy:
    """Travel and left/right practice in turns: the data that teaches a model to steer.

    Travel (20 to 80 frames, also after each level's start) runs right, so that new ground comes;
    practice (40 to 120 frames) presses left and right equally often, so that their effect shows.
    A left/right walk without travel gets stuck in the first pit and teaches nothing. Directions
    are held 4 to 12 frames, jumps 1 to 5. Now and then (1 in 300) a game is reset.
    """

    TRAVEL, PRACTICE = 0, 1
    LENGTH = np.array([[20, 80], [40, 120]])
    # chances of left, none, right, and of starting a jump, in the two modes
    DIRECTION = np.cumsum([[0.12, 0.08, 0.80], [0.43, 0.14, 0.43]], axis=1)
    JUMP = np.array([0.2, 0.04])
    RESET_CHANCE = 1 / 300

    def __init__(self, count: int, rng: np.random.Generator) -> None:
        self.rng = rng
        self.mode = np.full(count, self.PRACTICE)  # turns to TRAVEL at the first frame
        self.mode_left = np.zeros(count, dtype=np.int64)
        self.direction = np.zeros(count, dtype=np.int64)
        self.direction_left = np.zeros(count, dtype=np.int64)
        self.jump_left = np.zeros(count, dtype=np.int64)

    def choose(self, first: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rng, size = self.rng, first.shape
        turn = (self.mode_left == 0) | first
        self.mode = np.where(turn, np.where(first, self.TRAVEL, 1 - self.mode), self.mode)
        low, high = self.LENGTH[self.mode].T
        self.mode_left = np.where(turn, rng.integers(low, high + 1), self.mode_left) - 1

        fresh = (self.direction_left == 0) | turn
        chance = self.DIRECTION[self.mode]
        draw = rng.random(size)
        drawn = (draw > chance[:, 0]).astype(np.int64) + (draw > chance[:, 1]) - 1
        self.direction = np.where(fresh, drawn, self.direction)
        self.direction_left = np.where(fresh, rng.integers(4, 13, size), self.direction_left) - 1

        starts = (self.jump_left == 0) & (rng.random(size) < self.JUMP[self.mode])
        self.jump_left = np.where(starts, rng.integers(1, 6, size), self.jump_left)
        jumping = self.jump_left > 0
        self.jump_left = np.maximum(self.jump_left - 1, 0)
        actions = combine(self.direction, jumping.astype(np.int64))
        return actions, rng.random(size) < self.RESET_CHANCE

"""Many copies of one game at once: real CoinRun, or any other game behind the same class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np

from workshop_lib.errors import WorkshopError

Look = Literal["mono", "easy", "hard"]
Backend = Literal["auto", "procgen", "envpool"]
LOOKS: tuple[str, ...] = get_args(Look)
# fmt: off
PROCGEN_GAMES: tuple[str, ...] = (
    "bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot",
    "heist", "jumper", "leaper", "maze", "miner", "ninja", "plunder", "starpilot",
)
# fmt: on
MAX_LEVEL = 2**31 - 1


class Observation(NamedTuple):
    """What N games show.

    frames: uint8 (N, H, W, C).
    first: bool (N,). True where the frame begins a new episode.
    reward: float32 (N,). What the last action earned; where `first` is True it belongs to the
        episode that has just ended.
    """

    frames: np.ndarray
    first: np.ndarray
    reward: np.ndarray


class Simulator(Protocol):
    """What a backend offers; `Game` checks the input and hands it on."""

    num_actions: int
    can_save: bool

    def observe(self) -> Observation: ...
    def act(self, actions: np.ndarray) -> None: ...
    def level_seeds(self) -> np.ndarray: ...
    def save(self) -> list[bytes]: ...
    def restore(self, moments: Sequence[bytes]) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class GameConfig:
    """Which game, and which of its levels.

    name: "coinrun" or another Procgen game, or "gymnasium:ID" for any Gymnasium environment that
        renders rgb_array.
    look: "mono" (plain colored blocks), "easy" (one theme, no monsters), "hard" (everything).
    levels: (start, stop), half open. Training, validation and test use disjoint ranges.
    """

    name: str = "coinrun"
    look: Look = "easy"
    levels: tuple[int, int] = (0, 100_000)

    def __post_init__(self) -> None:
        if self.look not in LOOKS:
            raise WorkshopError(f"unknown look {self.look!r}: choose one of {', '.join(LOOKS)}")
        start, stop = self.levels
        # num_levels=0 would mean "all levels" and Procgen would then ignore the start.
        if not 0 <= start < stop <= MAX_LEVEL:
            raise WorkshopError(
                f"bad level range {start}:{stop}: need 0 <= start < stop <= {MAX_LEVEL}"
            )
        if not self.is_gymnasium and self.name not in PROCGEN_GAMES:
            raise WorkshopError(
                f"unknown game {self.name!r}: choose one of {', '.join(PROCGEN_GAMES)}, or "
                f"gymnasium:ID"
            )

    @property
    def is_gymnasium(self) -> bool:
        return self.name.startswith("gymnasium:")


class Game:
    """N copies of one game, stepped together.

    A finished game goes straight on to another level of its range; `Observation.first` says so.

    Raises WorkshopError if the simulator cannot be had on this machine, and for bad arguments,
    which Procgen itself would answer by ending the whole process.
    """

    def __init__(
        self,
        config: GameConfig,
        count: int = 1,
        seed: int = 0,
        threads: int = 2,
        backend: Backend = "auto",
    ) -> None:
        if count < 1:
            raise WorkshopError(f"a game needs count >= 1, got {count}")
        self.config = config
        self.count = count
        self.simulator = _open_simulator(config, count, seed, threads, backend)
        self.num_actions = self.simulator.num_actions
        self.can_save = self.simulator.can_save
        self._process = os.getpid()

    def observe(self) -> Observation:
        """The current frames; may be called any number of times between two actions."""
        return self.simulator.observe()

    def act(self, actions: np.ndarray, reset: np.ndarray | None = None) -> None:
        """Presses one action in each game.

        actions: int (N,), 0 to num_actions - 1.
        reset: bool (N,), optional: these games drop their level and start another one instead.
        """
        actions = np.asarray(actions)
        if actions.shape != (self.count,) or actions.dtype.kind not in "iu":
            raise WorkshopError(
                f"actions must be integers of shape ({self.count},), got {actions.dtype} "
                f"{actions.shape}"
            )
        if actions.min() < 0 or actions.max() >= self.num_actions:
            raise WorkshopError(
                f"actions must be 0 to {self.num_actions - 1}, got {actions.min()} to "
                f"{actions.max()}"
            )
        actions = actions.astype(np.int32)
        if os.getpid() != self._process:  # its threads did not come along: it would hang
            raise WorkshopError("a forked process cannot play its parent's game: open a new one")
        if reset is not None:
            actions[np.asarray(reset, dtype=bool)] = RESET
        self.simulator.act(actions)

    def level_seeds(self) -> np.ndarray:
        """Which level each game is in: int64 (N,)."""
        return self.simulator.level_seeds()

    def save(self) -> list[bytes]:
        """The whole state of each game, N byte strings, for `restore` here or in a new process.

        Raises WorkshopError with a backend that cannot save (envpool, Gymnasium).
        """
        if not self.can_save:
            raise WorkshopError(
                "this simulator cannot save a moment; install procgen (Python 3.10 to 3.12, "
                "Linux x86-64) for that"
            )
        return self.simulator.save()

    def restore(self, moments: Sequence[bytes]) -> None:
        """Puts each game back into a moment that `save` returned: branch one moment N ways."""
        if not self.can_save:
            raise WorkshopError("this simulator cannot restore a moment; install procgen for that")
        if len(moments) != self.count:
            raise WorkshopError(f"need {self.count} saved moments, got {len(moments)}")
        self.simulator.restore(moments)

    def close(self) -> None:
        self.simulator.close()

    def __enter__(self) -> Game:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


RESET = -1  # a backend drops the level of a game that is given this action


def level_moment(config: GameConfig, level: int) -> bytes:
    """The first moment of one given level, for `Game.restore`.

    The restored game keeps to this one level: whenever it ends, it begins again.
    """
    single = GameConfig(config.name, config.look, (level, level + 1))
    with Game(single, count=1) as game:
        game.observe()
        return game.save()[0]


def available_backends() -> list[str]:
    """The simulators of CoinRun that import here, best first: of "procgen" and "envpool"."""
    from importlib.util import find_spec

    return [name for name in ("procgen", "envpool") if find_spec(name) is not None]


def _open_simulator(
    config: GameConfig, count: int, seed: int, threads: int, backend: Backend
) -> Simulator:
    if config.is_gymnasium:
        from workshop_lib.data.gymnasium_game import GymnasiumSimulator

        return GymnasiumSimulator(config, count, seed)
    found = available_backends()
    if not found:
        raise WorkshopError(
            "no simulator of CoinRun is installed here: `pip install 'envpool<1.2.6'` brings one "
            "(macOS arm64, Windows, Linux; Python 3.11 and up); the recorded episodes in "
            "data/sample need none"
        )
    wanted = found[0] if backend == "auto" else backend
    if wanted not in found:
        raise WorkshopError(f"simulator {wanted!r} is not installed here; {found[0]!r} is")
    if wanted == "procgen":
        from workshop_lib.data.procgen_game import ProcgenSimulator

        return ProcgenSimulator(config, count, seed, threads)
    from workshop_lib.data.envpool_game import EnvpoolSimulator

    return EnvpoolSimulator(config, count, seed, threads)

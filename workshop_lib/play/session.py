"""A session of play: a world, where it began, and what has been pressed since. No widget in it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workshop_lib.data.actions import ACTIONS, NUM_ACTIONS
from workshop_lib.errors import WorkshopError
from workshop_lib.media.video import Gif, show_gif, write_video
from workshop_lib.models.denoising import check_play
from workshop_lib.models.termination import REWARDED, Termination
from workshop_lib.play.film import film
from workshop_lib.play.prompts import LENGTH, Prompt
from workshop_lib.play.real_game import begin_game, knows_moment, moment_of, simulator_of
from workshop_lib.worlds.ending_world import EndingWorld
from workshop_lib.worlds.game_world import GameState, GameWorld
from workshop_lib.worlds.opening import options_of
from workshop_lib.worlds.world import World

HISTORY = 3000  # steps whose frames are kept: 200 seconds at 15 frames a second
UNDO = 100  # steps that can be taken back; a moment of the real game takes 400 KB
# What can be turned while playing, where a world has it.
OPTIONS: dict[str, Callable[[Any], float | str]] = {
    "steps": int, "temperature": float, "sampler": str, "guidance": float, "seed": int,
    "ends": bool,
}  # fmt: skip
# The worlds learned from players who never press DOWN: for them these keys are left, none, right.
WITHOUT_DOWN = {0: 1, 3: 4, 6: 7}
ALIKE = 60.0  # dB that two equal pictures count as


@dataclass(frozen=True)
class Step:
    """One moment of a session.

    frame: uint8 (H, W, 3). action: what led to it; None where the session begins. code: the latent
        action that it stood for there; None in a world that hears the key itself, and where the
        level was over.
    real: uint8 (H, W, 3), what the real game showed under the same keys; None without it.
    psnr: how near frame and real are, in dB; None without a real frame.
    seconds: what the world took for it.
    note: what happened in the real game, or to the dreamed level, in words, mostly nothing.
    begun: whether the dreamed level was over, and begins anew with this frame.
    """

    frame: np.ndarray
    action: int | None = None
    real: np.ndarray | None = None
    psnr: float | None = None
    seconds: float = 0.0
    note: str = ""
    begun: bool = False
    code: int | None = None


class PlaySession:
    """Plays a world from a prompt, one action at a time.

    Where the prompt tells how the real game comes to its moment, and a simulator is here, the real
    game runs beside the dream under the same keys, until its level is over.

    Args:
        world: any world: worlds/world.py. It may be shared by sessions, its options are then, too.
        prompt: where to begin.
        name: the world's, for people and for saved sessions.
        beside: whether the real game runs beside it.
        down: whether the world knows the key DOWN; by default only the real game does.
        termination: says when the dreamed level is over; it then begins anew, and the real game
            beside it, too. The option "ends" turns this off and on. Without one, and in the real
            game, which needs none, there is no such option.

    Raises WorkshopError where the world cannot begin at the prompt.
    """

    def __init__(
        self,
        world: World,
        prompt: Prompt,
        name: str = "",
        beside: bool = True,
        down: bool | None = None,
        termination: Termination | None = None,
    ) -> None:
        self.world: Any = world
        self.prompt, self.name = prompt, name or type(world).__name__
        self.is_game = isinstance(world, GameWorld)
        self.takes_keys = world.num_actions == NUM_ACTIONS  # the game's; else latent codes
        self._levels = None
        if termination is not None and not self.is_game:
            self._levels = EndingWorld(world, termination)
        self.down = self.is_game if down is None else down
        self._beside = beside and not self.is_game and self.takes_keys and knows_moment(prompt)
        self._game: GameWorld | None = None
        self.reset()

    @property
    def now(self) -> Step:
        """The moment that is shown."""
        return self.steps[-1]

    @property
    def options(self) -> dict[str, int | float | str]:
        """Which of OPTIONS the world has, and how they stand."""
        ends = {} if self._levels is None else {"ends": self._levels.ends}
        return {**options_of(self.world), **ends}

    def set(self, **options: float | str) -> None:
        """Turns the world's options; they hold from the next step on.

        Raises WorkshopError for one that this world does not have, or an impossible value.
        """
        for name, value in options.items():
            if name not in self.options:
                has = ", ".join(self.options) or "none"
                raise WorkshopError(f"{self.name} has no option {name!r}; it has {has}")
            if name == "sampler":
                check_play(self.world.steps, str(value), self.world.model.schedule)
            elif float(value) < (1 if name == "steps" else 0):
                raise WorkshopError(f"{name} is {value}: too small")
            setattr(self._levels if name == "ends" else self.world, name, OPTIONS[name](value))

    def reset(self, seed: int | None = None) -> Step:
        """Begins again at the prompt; with a seed, the world's dice fall by that from now on."""
        if seed is not None:
            self.set(seed=seed)
        state, game_state = self._begin_world(), self._begin_beside()
        shown = state.frames[0] if self.is_game else self.prompt.frames
        frame = shown[-1].numpy()
        start = Step(frame, real=None if game_state is None else game_state.frames[0, -1].numpy())
        self.actions: list[int] = []
        self.told: list[dict[str, int | float | str]] = []  # the options at each of the actions
        self.steps: deque[Step] = deque([_compared(start)], maxlen=HISTORY + 1)
        self._states: deque[tuple[Any, GameState | None]] = deque(maxlen=UNDO + 1)
        self._states.append((state, game_state))
        return self.now

    def heard(self, action: int) -> int:
        """The action that the world is given for one that is pressed."""
        return WITHOUT_DOWN.get(action, action) if self.takes_keys and not self.down else action

    def caption(self, step: Step) -> str:
        """A step's action in words; in a world of latent actions with the code it stood for."""
        if step.action is None:
            return ""
        if not self.takes_keys:
            return f"code {step.action}"
        name = ACTIONS[step.action].name
        return name if step.code is None else f"{name} = code {step.code}"

    @torch.inference_mode()
    def step(self, action: int) -> Step:
        """Presses `action`, 0 to num_actions - 1, and goes on to the next moment.

        Raises WorkshopError for an action that the world does not have.
        """
        if not 0 <= action < self.world.num_actions:
            raise WorkshopError(
                f"{self.name} has the actions 0 to {self.world.num_actions - 1}, not {action}"
            )
        action = self.heard(action)
        state: Any
        state, game_state = self._states[-1]
        options, pressed = self.options, torch.tensor([action])
        start = time.perf_counter()
        frame, state = (self._levels or self.world).step(state, pressed)
        shown = frame[0].cpu().numpy()
        seconds, real = time.perf_counter() - start, None
        note = _event(state) if self.is_game else ""
        over = self._levels is not None and bool(state.ended[0])
        if over:
            note = "the coin!" if int(state.ended[0]) == REWARDED else "the level is over"
            game_state = self._begin_beside()
            real = None if game_state is None else game_state.frames[0, -1].numpy()
        elif self._game is not None and game_state is not None:
            real_frame, game_state = self._game.step(game_state, pressed)
            if int(game_state.age[0]) == 1:  # the level is over; what follows is another story
                note, game_state = _event(game_state), None
            else:
                real = real_frame[0].numpy()
        code = None if over else self._code(getattr(state, "dream", state))
        self.actions.append(action)
        self.told.append(options)
        self._states.append((state, game_state))
        self.steps.append(_compared(Step(shown, action, real, None, seconds, note, over, code)))
        return self.now

    def undo(self, count: int = 1) -> Step:
        """Takes the last steps back; further than UNDO steps or the beginning it does not go.

        Raises WorkshopError where the world is a game that cannot go back.
        """
        if self.is_game and not self.world.game.can_save:
            raise WorkshopError("this simulator cannot go back; reset begins its level again")
        for _ in range(min(count, len(self._states) - 1)):
            for past in (self.actions, self.told, self.steps, self._states):
                past.pop()
        return self.now

    def here(self) -> Prompt:
        """The moment that is shown, as a prompt for another world.

        It is the real game's, where that is played or runs beside; else the dream's own.
        """
        state, game_state = self._states[-1]
        game_state = state if self.is_game else game_state
        name = f"after {len(self.actions)} steps from {self.prompt.name}"
        if game_state is not None:
            game: Any = self.world if self.is_game else self._game
            frames, actions = game.prompt(game_state)
            keep = min(LENGTH, frames.shape[1])
            moment, keys = moment_of(game, game_state)
            return replace(
                self.prompt,
                frames=frames[0, -keep:],
                actions=actions[0, actions.shape[1] - keep + 1 :],
                moment=moment,
                pressed=keys,
                simulator=simulator_of(game),
                name=name,
            )
        steps = list(self.steps)[-LENGTH:] if self.takes_keys else [self.now]
        steps = steps[max((n for n, step in enumerate(steps) if step.begun), default=0) :]
        pressed = [step.action for step in steps[1:]]
        frames = torch.tensor(np.stack([step.frame for step in steps]))
        actions = torch.tensor(pressed, dtype=torch.int64)
        return Prompt(frames, actions, name, self.prompt.game)

    def film(self, scale: int = 4) -> np.ndarray:
        """The session with its keys, the real game beside it: uint8 (T, H', W', 3); film.py."""
        return film(self, scale)

    def gif(self, width: int | None = None, fps: float = 15) -> Gif:
        """The session as a GIF, for the end of a notebook cell."""
        return show_gif(self.film(scale=3), fps, width)

    def record(self, path: str | Path, fps: float = 15, scale: int = 6) -> None:
        """Writes the session as .mp4 or .gif.

        Raises WorkshopError for another suffix.
        """
        write_video(path, self.film(scale), fps)

    def _code(self, state: Any) -> int | None:
        """The latent action that led to a state of the world, where a key stood for one."""
        if getattr(self.world, "key_codes", None) is None:
            return None
        return int(state.led_by[0, -1])

    def _begin_world(self) -> Any:
        prompt = self.prompt
        if not self.is_game:
            heard = [self.heard(action) for action in prompt.actions.tolist()]
            frames, actions = prompt.frames, torch.tensor(heard, dtype=torch.int64)
            if not self.takes_keys and getattr(self.world, "lam", None) is None:
                frames, actions = frames[-1:], actions[:0]  # nobody knows the codes between them
            with torch.inference_mode():
                return (self._levels or self.world).begin(frames[None], actions[None])
        self.world, state = begin_game(prompt, simulator_of(self.world), self.world)
        return state

    def _begin_beside(self) -> GameState | None:
        if not self._beside:
            return None
        try:
            self._game, state = begin_game(self.prompt, self.prompt.simulator, self._game)
        except WorkshopError:  # a simulator that is there, but does not load
            return None
        return state


def _compared(step: Step) -> Step:
    if step.real is None:
        return step
    error = np.square(step.frame.astype(float) - step.real).mean()
    psnr = ALIKE if error == 0 else min(ALIKE, 10 * np.log10(255**2 / error))
    return replace(step, psnr=float(psnr))


def _event(state: GameState) -> str:
    if float(state.reward[0]) > 0:
        return "the coin!"
    return "the level is over" if int(state.age[0]) == 1 and state.frames.shape[1] > 1 else ""

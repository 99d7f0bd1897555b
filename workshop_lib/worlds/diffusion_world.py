"""A world dreamed by diffusion: every new frame begins as noise, and is cleaned step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workshop_lib.data.clip import video_to_frames
from workshop_lib.errors import WorkshopError
from workshop_lib.models.denoising import UNKNOWN, check_play, next_frame
from workshop_lib.models.tokenizer import Tokenizer
from workshop_lib.worlds.checks import check_actions, check_prompt, check_step, dice
from workshop_lib.worlds.repeater import repeater


@dataclass(frozen=True)
class DiffusionState:
    """A moment of B dreams. Never changes: step it as often as you like.

    frames: uint8 (B, T, H, W, C), the newest, as many as the next one can depend on.
    led_by: int64 (B, T), the action that led to each; -1 for none.
    number: how many frames were dreamed so far.
    """

    frames: Tensor
    led_by: Tensor
    number: int

    def then(self, frame: Tensor, led_by: Tensor, kept: int) -> DiffusionState:
        """The moment after this one, with its frame; the past is cut to `kept` frames."""
        return DiffusionState(
            torch.cat([self.frames, frame[:, None]], dim=1)[:, -kept:],
            torch.cat([self.led_by, led_by[:, None]], dim=1)[:, -kept:],
            self.number + 1,
        )

    def equals(self, other: DiffusionState) -> bool:
        """Whether the same frames led here by the same actions."""
        return torch.equal(self.led_by, other.led_by) and torch.equal(self.frames, other.frames)


class DiffusionWorld:
    """A denoiser of frames (models/denoising.py) behind the two verbs of all worlds.

    The world keeps the model's memory of the moment that was stepped last, so that going on, or
    trying another action at the same moment, costs one pass for the frame before and one for each
    step; another moment's past is looked at again.

    Args:
        model: any denoiser.
        tokenizer: every dreamed frame passes through it, so that dreams last (worlds/repeater.py).
        steps: passes for each frame ("heun": nearly twice as many).
        sampler: ddim, euler, heun or dpm (models/diffusion_math.py).
        guidance: above 1 the action counts for more, at twice the price.
        stabilization: noise level that the past is said to have, for models with one.
        seed: of the noise. The same action at the same moment gives the same frame.

    What is None is as the model's config says. Raises WorkshopError for options that do not fit.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        guidance: float | None = None,
        stabilization: float | None = None,
        seed: int = 0,
    ) -> None:
        config = model.config
        self.model, self.repeat = model.for_play(), repeater(tokenizer)
        self.steps = config.steps if steps is None else steps
        self.sampler = config.sampler if sampler is None else sampler
        self.guidance = config.guidance if guidance is None else guidance
        self.seed = seed
        check_play(self.steps, self.sampler, self.model.schedule)
        if stabilization is not None:
            if not hasattr(self.model, "stabilization"):
                raise WorkshopError("stabilization: this model takes the past as it is")
            self.model.stabilization = stabilization
        self.num_actions, self.context = model.num_actions, model.kept
        self.device = next(model.parameters()).device
        self._memory: Any = None
        self._held: DiffusionState | None = None  # the moment that is in the memory
        self._newest: DiffusionState | None = None  # the one that was stepped to from there

    @torch.inference_mode()
    def begin(self, frames: Tensor, actions: Tensor) -> DiffusionState:
        """The state after a prompt: uint8 (B, T, H, W, C), T >= 1, and int64 (B, T - 1).

        Raises WorkshopError for a prompt that does not fit.
        """
        size = self.model.size
        check_prompt(frames, actions)
        if tuple(frames.shape[2:]) != (size, size, 3):
            raise WorkshopError(
                f"this world dreams in frames of {size} x {size} x 3, got"
                f" {' x '.join(map(str, frames.shape[2:]))}"
            )
        check_actions(actions, self.num_actions)
        led_by = torch.nn.functional.pad(actions.to(self.device), (1, 0), value=UNKNOWN)
        kept = self.model.kept
        return DiffusionState(frames[:, -kept:].to(self.device), led_by[:, -kept:], number=0)

    @torch.inference_mode()
    def step(self, state: DiffusionState, action: Tensor) -> tuple[Tensor, DiffusionState]:
        """`action` int64 (B,) at `state`: the next frame, uint8 (B, H, W, C), and the next state.

        Raises WorkshopError for actions that the world does not have.
        """
        check_step(action, len(state.frames), self.num_actions)
        memory, led_by = self._memory_of(state), action.to(self.device)
        how = self.steps, self.sampler, self.guidance, self.noise(state)
        frame = self.repeat(video_to_frames(next_frame(self.model, memory, led_by, *how)))
        self._newest = state.then(frame, led_by, self.model.kept)
        return frame.to(action.device), self._newest

    def noise(self, state: DiffusionState) -> torch.Generator:
        """Of the frame after a state: a function of seed and number of the frame."""
        return dice(self.seed, state.number)

    def _memory_of(self, state: DiffusionState) -> Any:
        """The model's memory of a moment's past and of its own frame."""
        new = self._frames_missing(state)
        if new:
            memory = None if new == state.frames.shape[1] else self._memory
            self._held = self._newest = None  # an interruption would leave it half written
            newest = state.frames[:, -new:], state.led_by[:, -new:]
            self._memory = self.model.recall(*newest, memory)
        self._held = state
        return self._memory

    def _frames_missing(self, state: DiffusionState) -> int:
        """How many frames of a moment's past the memory lacks: none, the newest, or all."""
        held = self._held
        if held is not None and state is self._newest:
            return 1
        if held is not None and len(held.frames) == len(state.frames):
            if held is state or held.equals(state):
                return 0
            newest = state.frames[:, -1], state.led_by[:, -1]
            if held.then(*newest, self.model.kept).equals(state):
                return 1
        return state.frames.shape[1]

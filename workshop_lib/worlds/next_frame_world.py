"""A world dreamed by the next-frame predictor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workshop_lib.errors import WorkshopError
from workshop_lib.models.next_frame import NextFrame


@dataclass(frozen=True)
class NextFrameState:
    """What the next frame depends on. Never changes: step it as often as you like.

    frames: uint8 (B, k, H, W, C), the last k, oldest first.
    actions: int64 (B, k - 1), what was pressed after each of them but the last.
    """

    frames: Tensor
    actions: Tensor


class NextFrameWorld:
    """A NextFrame model behind the two verbs of all worlds (worlds/world.py).

    Nothing is random in it, and nothing remembered but the last k frames, as uint8: a dream goes
    on in the same way from a state and from a prompt with the frames that were shown. It runs on
    the model's device; frames come back to where the action was.
    """

    def __init__(self, model: NextFrame) -> None:
        self.model = model
        self.num_actions, self.context = model.num_actions, model.config.frames

    @torch.inference_mode()
    def begin(self, frames: Tensor, actions: Tensor) -> NextFrameState:
        """The state after a prompt: uint8 (B, T, H, W, C), T >= 1, and int64 (B, T - 1).

        Raises WorkshopError for a prompt that does not fit.
        """
        if frames.ndim != 5 or frames.shape[1] < 1 or frames.dtype != torch.uint8:
            raise WorkshopError(
                f"a prompt's frames must be uint8 (B, T, H, W, C), T >= 1, got {frames.dtype} "
                f"{tuple(frames.shape)}"
            )
        if actions.shape != (len(frames), frames.shape[1] - 1):
            raise WorkshopError(
                f"a prompt of {len(frames)} x {frames.shape[1]} frames needs actions "
                f"({len(frames)}, {frames.shape[1] - 1}), got {tuple(actions.shape)}"
            )
        self._check(actions)
        device = next(self.model.parameters()).device
        return NextFrameState(*self.model.prompt(frames.to(device), actions.to(device)))

    @torch.inference_mode()
    def step(self, state: NextFrameState, action: Tensor) -> tuple[Tensor, NextFrameState]:
        """`action` int64 (B,) at `state`: the next frame, uint8 (B, H, W, C), and the next state.

        Raises WorkshopError for actions that the world does not have.
        """
        if action.shape != (len(state.frames),):
            raise WorkshopError(
                f"{len(state.frames)} dreams need as many actions, got {tuple(action.shape)}"
            )
        self._check(action)
        pressed = torch.cat([state.actions, action.to(state.actions)[:, None]], dim=1)
        frame = self.model.next_frames(state.frames, pressed)
        frames = torch.cat([state.frames[:, 1:], frame[:, None]], dim=1)
        return frame.to(action.device), NextFrameState(frames, pressed[:, 1:])

    def _check(self, actions: Tensor) -> None:
        if actions.numel() and (actions.min() < 0 or actions.max() >= self.num_actions):
            raise WorkshopError(
                f"actions must be 0 to {self.num_actions - 1}, got {int(actions.min())} to "
                f"{int(actions.max())}"
            )

"""A world dreamed by the next-frame predictor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workshop_lib.models.next_frame import NextFrame
from workshop_lib.models.tokenizer import Tokenizer
from workshop_lib.worlds.checks import check_actions, check_prompt, check_step
from workshop_lib.worlds.repeater import repeater


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

    Args:
        model: the predictor.
        tokenizer: every dreamed frame passes through it, so that dreams last (worlds/repeater.py).
    """

    def __init__(self, model: NextFrame, tokenizer: Tokenizer | None = None) -> None:
        self.model, self.repeat = model, repeater(tokenizer)
        self.num_actions, self.context = model.num_actions, model.config.frames

    @torch.inference_mode()
    def begin(self, frames: Tensor, actions: Tensor) -> NextFrameState:
        """The state after a prompt: uint8 (B, T, H, W, C), T >= 1, and int64 (B, T - 1).

        Raises WorkshopError for a prompt that does not fit.
        """
        check_prompt(frames, actions)
        check_actions(actions, self.num_actions)
        device = next(self.model.parameters()).device
        return NextFrameState(*self.model.prompt(frames.to(device), actions.to(device)))

    @torch.inference_mode()
    def step(self, state: NextFrameState, action: Tensor) -> tuple[Tensor, NextFrameState]:
        """`action` int64 (B,) at `state`: the next frame, uint8 (B, H, W, C), and the next state.

        Raises WorkshopError for actions that the world does not have.
        """
        check_step(action, len(state.frames), self.num_actions)
        pressed = torch.cat([state.actions, action.to(state.actions)[:, None]], dim=1)
        frame = self.repeat(self.model.next_frames(state.frames, pressed))
        frames = torch.cat([state.frames[:, 1:], frame[:, None]], dim=1)
        return frame.to(action.device), NextFrameState(frames, pressed[:, 1:])

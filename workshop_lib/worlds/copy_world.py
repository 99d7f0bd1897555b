"""The world in which nothing ever happens: the control that every other world must beat."""

from __future__ import annotations

from torch import Tensor

from workshop_lib.data.actions import NUM_ACTIONS


class CopyWorld:
    """Shows the last frame of the prompt for good, whatever is pressed (worlds/world.py).

    Its state is that frame, uint8 (B, H, W, C).
    """

    num_actions, context = NUM_ACTIONS, 1

    def begin(self, frames: Tensor, actions: Tensor) -> Tensor:
        """frames uint8 (B, T, H, W, C), T >= 1, and int64 (B, T - 1)."""
        return frames[:, -1]

    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """The same frame again, uint8 (B, H, W, C)."""
        return state, state

"""What everything that can be played has in common."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class World(Protocol):
    """B dreams side by side, which begin with a prompt and go on by actions.

    num_actions: A; actions are 0 to A - 1. For most worlds these are the game's 15 keys, for one
        driven by latent actions its codes.
    context: how many frames of a prompt it can make use of; more do no harm.

    A state never changes: it can be stepped any number of times, with other actions each time, and
    the same action from the same state gives the same frame, also where the world samples.
    """

    num_actions: int
    context: int

    def begin(self, frames: Tensor, actions: Tensor) -> Any:
        """The state after a prompt.

        frames: uint8 (B, T, H, W, C), T >= 1. actions: int64 (B, T - 1); `actions[:, t]` led from
        frame t to frame t + 1.

        Raises WorkshopError for a prompt that does not fit.
        """
        ...

    def step(self, state: Any, action: Tensor) -> tuple[Tensor, Any]:
        """`action` int64 (B,) at `state`: the next frame, uint8 (B, H, W, C), and the next state.

        Raises WorkshopError for actions that the world does not have.
        """
        ...

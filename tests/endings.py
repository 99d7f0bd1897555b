"""A stand-in for the model that says when a level ends, so that tests know when it does."""

from __future__ import annotations

from torch import Tensor, nn

from workshop_lib.data.actions import JUMP, LEFT_JUMP
from workshop_lib.models.termination import OVER, REWARDED, Termination, TerminationConfig


class Ends(Termination):
    """Says that the level is over when JUMP is pressed, and got the coin with LEFT_JUMP.

    seen: the frames that it was shown, each time.
    """

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.config = TerminationConfig()
        self.seen: list[Tensor] = []

    def ending(self, frames: Tensor, action: Tensor) -> Tensor:
        self.seen.append(frames)
        return OVER * (action == JUMP) + REWARDED * (action == LEFT_JUMP)

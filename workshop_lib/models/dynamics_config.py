"""What a MaskGIT dynamics is made of, and how it is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from workshop_lib.errors import WorkshopError
from workshop_lib.models.maskgit import Schedule
from workshop_lib.nn.space_time import SpaceTimeConfig


@dataclass(frozen=True)
class DynamicsConfig:
    """grid: (h, w), tokens down and across a frame.
    num_codes: K of the tokenizer.
    code_factors: how many values each digit of a token has, first digit first: the levels of FSQ,
        (2,) * bits of LFQ. Empty for VQ, whose codes have no digits.
    body: "transformer", over space and past time; or "conv", convolutions over the last frames,
        which learn far more from little compute (nn/frame_stack.py).
    dim, depth, heads: width D, blocks and attention heads of the body.
    window: W, frames that it sees, the present one included.
    group: 2 puts 2x2 tokens into one place of the transformer, for grids of 256.
    num_actions: A: 15 keys, or the codes of a latent action model.
    drive: what leads from frame to frame: the "actions" of the data, "latent" actions that a
        latent action model infers, or "none", the control.
    action_input: "add" it to every token of the frame it leads to, or "prepend" it as a token
        (the transformer; convolutions have a way of their own).
    schedule: of the share of masked tokens.
    corrupt: up to this share of the past's tokens are random in training, 0 to 0.2.
    masked_past: share of training clips whose past is masked at random, too.
    spoiled: share of training clips in whose past a rectangle shows another level.
    own_past: share of training clips whose past is, in part, what the model itself would draw.
    palette: how strongly a dream keeps to the codes that it has shown (models/palette.py); 0 is
        not at all, 1 is Bayes' rule. For levels of many themes.
    """

    grid: tuple[int, int] = (8, 8)
    num_codes: int = 512
    code_factors: tuple[int, ...] = ()
    body: Literal["transformer", "conv"] = "transformer"
    dim: int = 128
    depth: int = 4
    heads: int = 4
    window: int = 16
    group: int = 1
    num_actions: int = 15
    drive: Literal["actions", "latent", "none"] = "actions"
    action_input: Literal["add", "prepend"] = "add"
    schedule: Schedule = "cosine"
    corrupt: float = 0.1
    masked_past: float = 0.1
    spoiled: float = 0.0
    own_past: float = 0.0
    palette: float = 0.0

    def __post_init__(self) -> None:
        for key in ("num_codes", "num_actions", "group"):
            if getattr(self, key) < 1:
                raise WorkshopError(f"model.{key} must be 1 or more, got {getattr(self, key)}")
        if self.code_factors and math.prod(self.code_factors) != self.num_codes:
            raise WorkshopError(
                f"model.code_factors {list(self.code_factors)} must multiply to model.num_codes"
                f" {self.num_codes}"
            )
        if any(side % self.group for side in self.grid):
            raise WorkshopError(
                f"model.grid {list(self.grid)} must be a multiple of model.group {self.group}"
            )
        if not 0 <= self.corrupt <= 0.2:
            raise WorkshopError(f"model.corrupt must be 0 to 0.2, got {self.corrupt}")
        for key in ("masked_past", "spoiled", "own_past"):
            if not 0 <= getattr(self, key) <= 1:
                raise WorkshopError(f"model.{key} must be 0 to 1, got {getattr(self, key)}")
        if self.palette < 0:
            raise WorkshopError(f"model.palette must not be negative, got {self.palette}")
        _ = self.transformer  # says what does not fit

    @property
    def transformer(self) -> SpaceTimeConfig:
        """The shape of the transformer."""
        places = self.grid[0] // self.group, self.grid[1] // self.group
        extra = int(self.action_input == "prepend" or self.body == "conv")
        return SpaceTimeConfig(
            self.dim, self.depth, self.heads, places, self.window, extra_tokens=extra
        )

    @property
    def reach(self) -> int:
        """How many frames back a frame's prediction depends on, through all blocks."""
        return (self.window - 1) * (1 if self.body == "conv" else self.depth)

"""A digital repeater for dreams in pixels: each frame passes through a tokenizer and back.

A dreamed frame is the past of the next one, so a little mist in it becomes more, as noise does
along an analog line. Whoever sends signs instead of a wave can clean the signal at every station: a
sign that is nearly right is read as that sign, and sent on as new (Oliver, Pierce and Shannon 1948,
"The Philosophy of PCM"). A tokenizer's codes are such signs. It has learned to draw real frames
with them, and what is less than a step of a code is rounded away, not carried on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workshop_lib.errors import WorkshopError
from workshop_lib.models.tokenizer import Tokenizer
from workshop_lib.nn.packed import packed


class Repeater:
    """uint8 frames (B, H, W, C) to the same frames as the tokenizer draws them.

    Raises WorkshopError for a tokenizer that does not take frames by themselves.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        if tokenizer.config.architecture != "conv":
            raise WorkshopError(
                "only a tokenizer of architecture conv, which takes each frame by itself, can stand"
                f" behind a world of pixels; this one is {tokenizer.config.architecture}"
            )
        self.tokenizer = packed(tokenizer)

    def __call__(self, frames: Tensor) -> Tensor:
        return self.tokenizer.reconstruct(frames[:, None])[:, 0]


def repeater(tokenizer: Tokenizer | None) -> Repeater | torch.nn.Identity:
    """The tokenizer's, or one that leaves all as it is."""
    return torch.nn.Identity() if tokenizer is None else Repeater(tokenizer)

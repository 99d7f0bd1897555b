"""The one thing that passes between the data and every model: a batch of short videos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Clip:
    """B short videos of T frames with the actions pressed in them.

    frames: uint8 (B, T, H, W, C), 0 to 255.
    actions: int64 (B, T). `actions[:, t]` was pressed AFTER seeing frame t and led to frame t+1.
    first: bool (B, T). True where frame t begins an episode (nothing came before it).
    tokens: int64 (B, T, h, w), the frames as a tokenizer's codes, or None. Only datasets that
        `workshop encode` wrote have them.
    ending: int64 (B, T), what `actions[:, t]` led to: 0 for another frame, 1 for the level's end
        with a reward (in CoinRun the coin), 2 for its end without one (the player died), -1 if
        nobody knows; or None.

    A clip never crosses the end of an episode.
    """

    frames: Tensor
    actions: Tensor
    first: Tensor
    tokens: Tensor | None = None
    ending: Tensor | None = None

    def __post_init__(self) -> None:
        if self.frames.ndim != 5 or self.frames.dtype != torch.uint8:
            raise ValueError(
                f"frames must be uint8 (B, T, H, W, C), got {self.frames.dtype} "
                f"{tuple(self.frames.shape)}"
            )
        batch_time = tuple(self.frames.shape[:2])
        for name, value, dtype in (
            ("actions", self.actions, torch.int64),
            ("first", self.first, torch.bool),
            ("ending", self.ending, torch.int64),
        ):
            if value is None:
                continue
            if tuple(value.shape) != batch_time or value.dtype != dtype:
                raise ValueError(
                    f"{name} must be {dtype} (B, T) = {batch_time}, got {value.dtype} "
                    f"{tuple(value.shape)}"
                )
        tokens = self.tokens
        if tokens is not None and (
            tokens.ndim != 4 or tokens.shape[:2] != batch_time or tokens.dtype != torch.int64
        ):
            raise ValueError(
                f"tokens must be int64 (B, T, h, w) with (B, T) = {batch_time}, got "
                f"{tokens.dtype} {tuple(tokens.shape)}"
            )

    @property
    def video(self) -> Tensor:
        """The frames as models see them: float32 (B, T, C, H, W) in [-1, 1]."""
        return frames_to_video(self.frames)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Clip:
        """The same clip on another device; frames stay uint8 (4 times less to move)."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Clip:
        """The same clip in page-locked memory, for fast copies to a GPU."""
        return self._each(lambda tensor: tensor.pin_memory())

    def __len__(self) -> int:
        return self.frames.shape[0]

    def __getitem__(self, index: slice) -> Clip:
        """A part of the batch: `clip[:4]`."""
        return self._each(lambda tensor: tensor[index])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Clip:
        """The clip whose every tensor is changed in the same way."""
        return Clip(
            change(self.frames),
            change(self.actions),
            change(self.first),
            None if self.tokens is None else change(self.tokens),
            None if self.ending is None else change(self.ending),
        )


def frames_to_video(frames: Tensor) -> Tensor:
    """uint8 (..., H, W, C) in 0..255 to float32 (..., C, H, W) in [-1, 1]."""
    return frames.movedim(-1, -3).float().div(127.5).sub(1.0)


def video_to_frames(video: Tensor) -> Tensor:
    """float (..., C, H, W) in [-1, 1] (clipped) to uint8 (..., H, W, C) in 0..255."""
    scaled = video.float().clamp(-1, 1).add(1.0).mul(127.5).round()
    return scaled.to(torch.uint8).movedim(-3, -1).contiguous()

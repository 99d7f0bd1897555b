"""A next-frame predictor inside a diffusion model: it says the mean, noise makes a sample of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from workshop_lib.data.clip import frames_to_video
from workshop_lib.errors import WorkshopError
from workshop_lib.models.next_frame import NextFrame, NextFrameConfig


def check_mean(config: NextFrameConfig) -> None:
    """Raises WorkshopError for a predictor that cannot stand inside a diffusion model."""
    if (config.channels, config.ahead, config.size) != (3, 1, 0):
        raise WorkshopError(
            "model.mean: channels must be 3, ahead 1 and size 0: diffusion here is in color, "
            "frame by frame, in the frames' own size"
        )


@dataclass
class Past:
    """What a predictor sees of the past of B dreams: the last k frames (B, k, C, H, W) in [-1, 1],
    int64 (B, k - 1) what was pressed after each but the last, and the mean after an action once it
    was asked for."""

    video: Tensor
    pressed: Tensor
    led_by: Tensor | None = None
    mean: Tensor | None = None

    @classmethod
    def of(cls, net: NextFrame, frames: Tensor, led_by: Tensor, past: Past | None = None) -> Past:
        """uint8 frames (B, T, H, W, C) and what led to each, int64 (B, T); newer than `past`."""
        if past is None:
            frames, pressed = net.prompt(frames, led_by[:, 1:])
            return cls(frames_to_video(frames), pressed)
        k = net.config.frames
        video = torch.cat([past.video, frames_to_video(frames)], dim=1)[:, -k:]
        pressed = torch.cat([past.pressed, led_by], dim=1)
        return cls(video, pressed[:, pressed.shape[1] - (k - 1) :])

    def then(self, led_by: Tensor) -> Tensor:
        """What was pressed, with int64 (B,) as the last: (B, k)."""
        return torch.cat([self.pressed, led_by[:, None]], dim=1)

    def mean_after(self, led_by: Tensor, net: NextFrame) -> Tensor:
        """The mean of the next frame, (B, C, H, W); asked for once while the tensor is the same, as
        at all steps to one frame."""
        if self.mean is None or self.led_by is not led_by:
            self.mean, self.led_by = net(self.video, self.then(led_by)), led_by
        return self.mean


def mean_of_each(net: NextFrame, video: Tensor, actions: Tensor) -> Tensor:
    """The mean of what follows each frame of (B, T, C, H, W) after int64 actions (B, T), given it
    and the k - 1 before: (B, T, C, H, W). A short past, at the start, is filled up as a prompt."""
    k = net.config.frames
    null = actions.new_full((len(actions), k - 1), net.null)
    line = torch.cat([video[:, :1]] * (k - 1) + [video], dim=1)
    seen = line.unfold(1, k, 1).movedim(-1, 2)  # B T k C H W
    pressed = torch.cat([null, actions], dim=1).unfold(1, k, 1)  # B T k
    mean = net(seen.flatten(0, 1), pressed.flatten(0, 1))
    return mean.unflatten(0, video.shape[:2])

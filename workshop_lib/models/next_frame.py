"""The next-frame predictor: the last frames and actions in, the next frame out, in one pass.

The oldest kind of world model (Oh et al. 2015), and the quickest to learn steering. It is trained
on the difference of pictures, so where several futures are possible it paints their mean: ground
that comes newly into view is a blur. To sample one of them takes noise (models/diffusion.py).

Two things keep its dreams together. In training the frames that it sees are noisy, so that it
learns to see through the faults of its own predictions; and with `unroll` above 1 it goes on from
these predictions, gradients and all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib.data.clip import Clip, frames_to_video, video_to_frames
from workshop_lib.errors import WorkshopError
from workshop_lib.models.spoiling import spoil
from workshop_lib.models.tokenizer import psnr
from workshop_lib.nn.frame_unet import FrameUNet, FrameUNetConfig


@dataclass(frozen=True)
class NextFrameConfig(FrameUNetConfig):
    """The network as in FrameUNetConfig, and:

    num_actions: A; actions are 0 to A - 1.
    loss: between predicted and real frame: "mse", "huber" or "l1".
    noise: in training each frame that the network sees gets Gaussian noise of a strength drawn
        from U(0, noise); frames run from -1 to 1.
    unroll: passes in training, one after the other, each from its own predictions.
    unroll_after: training steps before that, which predict one frame and cost 1 / unroll.
    short: share of the training clips whose past is cut off somewhere, as in short prompts.
    spoiled: share of the training clips whose past is spoiled, as models/spoiling.py says.
    size: the network's pictures are size x size pixels, frames are made larger or smaller; 0
        leaves them as they are. The predictors of old have channels 1 and size 84.
    """

    num_actions: int = 15
    loss: Literal["mse", "huber", "l1"] = "huber"
    noise: float = 0.05
    unroll: int = 1
    unroll_after: int = 0
    short: float = 0.1
    spoiled: float = 0.0
    size: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_actions", "unroll"):
            if getattr(self, name) < 1:
                raise WorkshopError(f"model.{name} must be 1 or more, got {getattr(self, name)}")
        if min(self.noise, self.unroll_after, self.size) < 0:
            raise WorkshopError(
                "model.noise, model.unroll_after and model.size must not be negative"
            )
        for name in ("short", "spoiled"):
            if not 0 <= getattr(self, name) <= 1:
                raise WorkshopError(f"model.{name} must be in [0, 1], got {getattr(self, name)}")


class NextFrame(nn.Module):
    """video (B, k, C, H, W) in [-1, 1] and actions (B, k) to the next frame (B, C, H, W).

    `actions[:, i]` is what was pressed after seeing frame i, so the last one leads to the frame
    that is predicted. A past shorter than k frames is filled up by repeating its first frame, with
    the action `null`. With `channels` 1 everything is seen, and predicted, in gray.

    With `ahead` n above 1 a pass makes n frames, and takes the n - 1 actions between them, too;
    those that are not known, as in play, are taken to be the last one, held.
    """

    steps: Tensor

    def __init__(self, config: NextFrameConfig) -> None:
        super().__init__()
        self.config = config
        # One table for each place: an action three frames ago means something else.
        self.actions = nn.ModuleList(
            nn.Embedding(config.num_actions + 1, config.cond_dim)
            for _ in range(config.frames + config.ahead - 1)
        )
        self.net = FrameUNet(config)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # trained so far

    @property
    def num_actions(self) -> int:
        return self.config.num_actions

    @property
    def null(self) -> int:
        """The action before the first frame."""
        return self.config.num_actions

    def condition(self, actions: Tensor) -> Tensor:
        """int64 (B, k to k + n - 1), 0 to A - 1 or `null`, to (B, D).

        Raises WorkshopError for other actions (on a GPU, CUDA does).
        """
        if not actions.is_cuda and actions.numel():  # a GPU would have to be waited for
            low, high = int(actions.min()), int(actions.max())
            if low < 0 or high > self.null:
                raise WorkshopError(
                    f"actions must be 0 to {self.num_actions - 1}, got {low} to {high} (-1 stands "
                    f"for unknown: footage without actions cannot teach steering)"
                )
        last = actions.shape[1] - 1
        places = [table(actions[:, min(i, last)]) for i, table in enumerate(self.actions)]
        return torch.stack(places).sum(dim=0)

    def forward(self, video: Tensor, actions: Tensor) -> Tensor:
        return self.net(video, self.condition(actions))

    def parts(self, video: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """The next frame and the displacement (B, 2, H, W), right and down, in pixels."""
        return self.net.parts(video, self.condition(actions))

    def several(self, video: Tensor, actions: Tensor) -> Tensor:
        """One pass: as many frames as there are actions from the k-th on, at most `ahead`."""
        count = actions.shape[1] - self.config.frames + 1
        return self.net.several(video, self.condition(actions))[0][:, :count]

    def loss(self, clip: Clip) -> tuple[Tensor, dict[str, Tensor]]:
        """The error of what one pass predicts, or the mean over `unroll` passes, each from the
        frames before: real ones first, then its own predictions.

        Logs psnr, of the first frame predicted; psnr_copy, of showing the frame before once more;
        and psnr_end, of the last frame predicted if there are several.

        Raises WorkshopError for clips shorter than k + unroll n frames, or without actions.
        """
        config, k = self.config, self.config.frames
        longest = k + config.unroll * config.ahead
        check_length(clip, longest)
        video, count = self.see(clip.frames[:, :longest]), config.ahead * self.unrolled()
        past, pressed = video[:, :k], clip.actions[:, :k]
        if self.training:
            past, pressed = self.shorten(spoil(past, self.config.spoiled), pressed)
        dream = self._dream(past, torch.cat([pressed, clip.actions[:, k : k + count - 1]], dim=1))
        real = video[:, k : k + count]
        shown = dream.detach()
        logs = {
            "psnr": psnr(shown[:, 0], real[:, 0]),
            "psnr_copy": psnr(video[:, k - 1], real[:, 0]),
        }
        if count > 1:
            logs["psnr_end"] = psnr(shown[:, -1], real[:, -1])
        return self.error(dream, real), logs

    def error(self, frames: Tensor, real: Tensor) -> Tensor:
        """What training makes small, of any two videos or frames of one shape."""
        measures = {"mse": F.mse_loss, "huber": F.smooth_l1_loss, "l1": F.l1_loss}
        return measures[self.config.loss](frames, real)

    def unrolled(self) -> int:
        """How many passes this training step makes one after the other. Counts the steps."""
        config = self.config
        if not self.training or not config.unroll_after:
            return config.unroll
        self.steps += 1
        return config.unroll if self.steps > config.unroll_after else 1

    def _dream(self, past: Tensor, actions: Tensor) -> Tensor:
        """(B, k, C, H, W) and actions (B, k - 1 + n) to n frames (B, n, C, H, W), each predicted
        from the ones before, its own included; with noise on what it sees while training."""
        k, ahead, dreamed = self.config.frames, self.config.ahead, []
        for start in range(0, actions.shape[1] - k + 1, ahead):
            seen = self.blemish(past) if self.training else past
            new = self.several(seen, actions[:, start : start + k + ahead - 1])
            dreamed.append(new)
            past = torch.cat([past, new], dim=1)[:, -k:]
        return torch.cat(dreamed, dim=1)

    @torch.inference_mode()
    def predict(self, frames: Tensor, actions: Tensor) -> Tensor:
        """An open-loop rollout: n frames by its own predictions, without seeing a real one again.

        frames: uint8 (B, T, H, W, C), T >= 1. actions: int64 (B, T - 1 + n), n >= 1.
        Returns uint8 (B, n, H, W, C).
        """
        k, ahead, length = self.config.frames, self.config.ahead, frames.shape[1] - 1
        past, pressed = self.prompt(frames, actions[:, :length])
        pressed = torch.cat([pressed, actions[:, length:]], dim=1)
        rollout = []
        for start in range(0, actions.shape[1] - length, ahead):
            new = self._following(past, pressed[:, start : start + k + ahead - 1])
            past = torch.cat([past, new], dim=1)[:, -k:]
            rollout.append(new)
        return torch.cat(rollout, dim=1)

    def prompt(self, frames: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """The last k frames and k - 1 actions of (B, T, ...) and (B, T - 1), filled up if T < k."""
        k = self.config.frames
        missing = max(0, k - frames.shape[1])
        frames = torch.cat([frames[:, :1]] * missing + [frames], dim=1)[:, -k:]
        null = actions.new_full((len(actions), missing), self.null)
        actions = torch.cat([null, actions], dim=1)
        return frames, actions[:, actions.shape[1] - (k - 1) :]

    def next_frames(self, frames: Tensor, actions: Tensor) -> Tensor:
        """uint8 (B, k, H, W, C) and int64 (B, k) to the next frame, uint8 (B, H, W, C)."""
        return self._following(frames, actions)[:, 0]

    def _following(self, frames: Tensor, actions: Tensor) -> Tensor:
        """What one pass makes of uint8 frames (B, k, H, W, C), in their size and colors."""
        video = self.several(self.see(frames), actions)
        new = video_to_frames(_resized(video, frames.shape[2], frames.shape[3]))
        return new.expand(*new.shape[:-1], frames.shape[-1])

    def see(self, frames: Tensor) -> Tensor:
        """uint8 (B, T, H, W, C) to float (B, T, C, H, W) in [-1, 1], gray where the model is, and
        of its size."""
        video, size = frames_to_video(frames), self.config.size
        video = video.mean(dim=2, keepdim=True) if self.config.channels == 1 else video
        return _resized(video, size, size) if size else video

    def preview(self, clip: Clip) -> dict[str, Tensor]:
        """The clip, and the dream of it after its first k frames."""
        k = self.config.frames
        check_length(clip, k + 1)
        dream = self.predict(clip.frames[:, :k], clip.actions[:, :-1])
        return {"real": clip.frames, "dream": torch.cat([clip.frames[:, :k], dream], dim=1)}

    def blemish(self, video: Tensor) -> Tensor:
        """Noise of another strength in every frame of (B, T, C, H, W)."""
        strength = self.config.noise * torch.rand(*video.shape[:2], 1, 1, 1, device=video.device)
        return video + strength * torch.randn_like(video)

    def shorten(self, past: Tensor, pressed: Tensor) -> tuple[Tensor, Tensor]:
        """In `short` of the samples keeps only the last 1 to k - 1 frames, filled up as a short
        prompt is."""
        count, k = pressed.shape
        if k == 1:
            return past, pressed
        device = past.device
        cut = torch.randint(1, k, (count,), device=device)  # so many frames are gone
        cut = torch.where(torch.rand(count, device=device) < self.config.short, cut, 0)
        place = torch.arange(k, device=device).expand(count, k)
        row = torch.arange(count, device=device)[:, None]
        past = past[row, torch.maximum(place, cut[:, None])]
        return past, torch.where(place < cut[:, None], self.null, pressed)


def check_length(clip: Clip, least: int) -> None:
    """Raises WorkshopError for clips shorter than `least` frames."""
    if clip.frames.shape[1] < least:
        raise WorkshopError(
            f"data.length: clips of {clip.frames.shape[1]} frames are too short: the model needs "
            f"{least} (model.frames, and then model.unroll times model.ahead)"
        )


def _resized(video: Tensor, height: int, width: int) -> Tensor:
    """(B, T, C, H, W) in another size; itself where it has that size."""
    if video.shape[-2:] == (height, width):
        return video
    size = height, width
    resized = F.interpolate(video.flatten(0, 1), size=size, mode="bilinear", antialias=True)
    return resized.unflatten(0, video.shape[:2])

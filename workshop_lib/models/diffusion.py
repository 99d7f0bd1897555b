"""Diffusion over frames: a transformer that takes noise from the next frame, past frames in view.

Every frame has its own noise level (Chen et al. 2024, "Diffusion forcing"), so a settled past and
a next frame that is still noise are one and the same kind of input. There are two ways to train:

    independent  each frame of a clip gets noise of its own level, and all are denoised at once.
    drafts       the past is settled, with a little noise, and beside it stands a noisy draft of
                 every frame but the first: exactly what play asks, at all moments of the clip, for
                 the price of two. (models/dynamics.py does the same with tokens.)

The little noise on the past holds off drift: the model learns to see through the faults of what it
dreamed before.

With drafts, a next-frame predictor may stand inside (`model.mean`), as in models/diffusion_unet.py:
it says the mean of the next frame, and the transformer makes a sample of it. Steering then need not
be learned through the noise. Where the action is left out, the mean is the frame before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib.data.clip import Clip, frames_to_video
from workshop_lib.errors import WorkshopError
from workshop_lib.models.denoising import UNKNOWN, rollout
from workshop_lib.models.diffusion_config import DiffusionConfig
from workshop_lib.models.diffusion_math import loss_weight, precondition, to_x0
from workshop_lib.models.expected import Past, mean_of_each
from workshop_lib.models.next_frame import NextFrame
from workshop_lib.models.noise_schedules import TableSchedule, make_schedule
from workshop_lib.models.spoiling import spoil
from workshop_lib.models.tokenizer import psnr
from workshop_lib.nn.cache import TimeCache
from workshop_lib.nn.dit import DiT
from workshop_lib.nn.frame_unet import displace
from workshop_lib.nn.oasis import OasisConfig, OasisDiT
from workshop_lib.nn.packed import packed


@dataclass
class Memory:
    """The past of B dreams: keys and values, the last frames themselves (B, see, C, H, W), and what
    a predictor inside sees of it."""

    cache: TimeCache
    last: Tensor
    past: Past | None


class Diffusion(nn.Module):
    """Denoises frames. Below, `led_by` int64 (B, T) is the action that led to each frame, -1 where
    there is none; `level` float (B, T) their noise levels under the schedule; `before` (B, T, see,
    C, H, W) the frames before each, the newest first; `guess` (B, T, C, H, W), with a predictor
    inside, the mean of each that is noisy, and what is settled itself."""

    def __init__(self, config: DiffusionConfig) -> None:
        super().__init__()
        self.config = config
        self.schedule = make_schedule(config.schedule)
        self.mean = NextFrame(config.mean) if config.mean else None
        seen = 1 + config.see + (self.mean is not None)
        channels = 3 * seen, 3 + 2 * config.displacement, config.num_actions
        self.net = (
            OasisDiT(config.net, *channels)
            if isinstance(config.net, OasisConfig)
            else DiT(config.net, *channels)
        )
        size = config.net.size
        self.num_actions = config.num_actions
        self.size = size if isinstance(size, int) else size[0]
        self.context, self.stabilization = config.net.window, config.stabilization
        self.kept = config.net.reach + max(1, config.see)
        if self.mean is not None:
            self.mean.requires_grad_(config.train_mean)
            self.kept = max(self.kept, self.mean.config.frames)

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        led_by: Tensor,
        before: Tensor,
        guess: Tensor | None = None,
        **how: Any,
    ) -> Tensor:
        """Noisy frames (B, T, C, H, W) to clean ones, with drafts (in `how`, as of the network)
        to those of the second half alone."""
        self._check(led_by)
        alpha, sigma = (v[..., None, None, None] for v in self.schedule.alpha_sigma(level))
        fed = x if guess is None else x - alpha * guess
        if self.config.data_std:
            fed = fed * precondition(alpha, sigma, self.config.data_std).in_
        seen = [fed, before.flatten(2, 3), *([] if guess is None else [guess])]
        maps = self.net(torch.cat(seen, dim=2), self.schedule.label(level), led_by, **how).float()
        guess = torch.zeros_like(x) if guess is None else guess
        said_of = (v[:, -maps.shape[1] :] for v in (x, before, guess, alpha, sigma))
        return self._clean(maps, *said_of)

    def _clean(
        self,
        maps: Tensor,
        x: Tensor,
        before: Tensor,
        guess: Tensor,
        alpha: Tensor,
        sigma: Tensor,
    ) -> Tensor:
        """What the network's maps (B, T, 3 or 5, H, W) say that the clean frames are.

        The mean, or a displaced frame, is a first guess; with preconditioning, the noisy picture
        corrects it as far as it is to be trusted, and the network adds the rest.
        """
        config, painted = self.config, maps[:, :, :3]
        if config.prediction != "x":
            return to_x0(config.prediction, painted, x, alpha, sigma)
        if config.displacement:
            moved = displace(before[:, :, 0].flatten(0, 1), maps[:, :, 3:].flatten(0, 1))
            guess = moved.unflatten(0, x.shape[:2])
        if not config.data_std:
            return guess + painted
        skip, out, _, _ = precondition(alpha, sigma, config.data_std)
        return guess + skip * (x - alpha * guess) + out * painted

    def loss(self, clip: Clip) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted squared error of what was noised, and the error of a predictor inside that
        is trained as well.

        Logs psnr, of the clean frames that are made of noisy ones in one step, and psnr_mean, of
        the predictor's first. In evaluation the noise is always the same, and there are besides
        what `measure` says.

        Raises WorkshopError for clips of one frame, or without actions.
        """
        if clip.frames.shape[1] < 2:
            raise WorkshopError("data.length must be 2 or more: a frame follows from another")
        generator = torch.Generator(clip.frames.device)
        generator.manual_seed(int(torch.randint(2**31, ())) if self.training else 0)
        video, led_by = clip.video, self._led_by(clip)
        level = self.schedule.draw(tuple(led_by.shape), generator)
        chance = torch.rand(led_by.shape, generator=generator, device=level.device)
        level = torch.where(chance < self.config.whole, self.schedule.top, level)
        x0, target, level = self._denoised(video, level, led_by, generator)
        alpha, sigma = (v[..., None, None, None] for v in self.schedule.alpha_sigma(level))
        weight = loss_weight(self.config.loss, alpha, sigma, self.config.most)
        loss = (weight * (x0 - target).square()).mean()
        logs = {"psnr": psnr(x0.detach(), target)}
        if self.mean is not None and self.config.train_mean:
            error, said = self.mean.loss(clip)
            loss, logs["psnr_mean"] = loss + error, said["psnr"]
        return loss, logs if self.training else logs | self.measure(clip)

    @torch.no_grad()
    def measure(self, clip: Clip) -> dict[str, Tensor]:
        """Errors that compare with those of other models, at noise drawn as for the public
        CoinRun weights: evenly from the 1000 levels of the sigmoid schedule.

        v_mse: of v = alpha eps - sigma x0 under that schedule; what else a network predicts is
        turned into it. ssim: of the clean frames made in one step. A model trained on drafts sees
        a settled past, the others one that is as noisy, as the public ones did.
        """
        from torchmetrics.functional.image import structural_similarity_index_measure as ssim

        generator = torch.Generator(clip.frames.device).manual_seed(1)
        public, led_by = TableSchedule("sigmoid"), self._led_by(clip)
        drawn = public.draw(tuple(led_by.shape), generator)
        alpha, sigma = public.alpha_sigma(drawn)
        level = self.schedule.level_of(sigma / alpha)
        x0, target, level = self._denoised(clip.video, level, led_by, generator)
        sigma = sigma[:, -x0.shape[1] :, None, None, None]
        shown = x0.clamp(-1, 1)
        likeness = ssim(shown.flatten(0, 1), target.flatten(0, 1), data_range=2.0)
        return {
            "v_mse": ((x0 - target) / sigma).square().mean(),
            "psnr_public": psnr(shown, target),
            "ssim": torch.as_tensor(likeness),
        }

    def _denoised(
        self, video: Tensor, level: Tensor, led_by: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Noises (B, T, C, H, W) as the training does, at these levels: the clean frames that the
        model makes of it, what they should be, and their levels. With drafts, of all but the
        first."""
        config, told = self.config, self._told(led_by, generator)
        if config.training == "independent":
            x = self._noise(video, level, generator)
            return self(x, level, told, self.before(x)), video, level
        past = torch.full_like(level, config.stabilization)
        if self.training:
            chance = torch.rand(level.shape, generator=generator, device=level.device)
            past = config.context * chance
        settled, drafts = video[:, :-1], video[:, 1:]
        settled = spoil(settled, config.spoiled) if self.training else settled
        both = torch.cat([past[:, :-1], level[:, 1:]], dim=1)
        x = self._noise(torch.cat([settled, drafts], dim=1), both, generator)
        if not self.training:
            x[:, : settled.shape[1]] = settled
        seen = self.before(torch.cat([x[:, : settled.shape[1]], video[:, -1:]], dim=1))
        before = torch.cat([seen[:, :-1], seen[:, 1:]], dim=1)
        both_told, guess = torch.cat([told[:, :-1], told[:, 1:]], dim=1), None
        if self.mean is not None:
            settled = x[:, : settled.shape[1]]
            with torch.no_grad():
                mean = mean_of_each(self.mean, settled, led_by[:, 1:])
            unknown = (told[:, 1:] == UNKNOWN)[..., None, None, None]
            guess = torch.cat([settled, torch.where(unknown, settled, mean)], dim=1)
        x0 = self(x, both, both_told, before, guess, drafts=True)
        return x0, drafts, level[:, 1:]

    def _noise(self, video: Tensor, level: Tensor, generator: torch.Generator) -> Tensor:
        alpha, sigma = (v[..., None, None, None] for v in self.schedule.alpha_sigma(level))
        eps = torch.randn(video.shape, generator=generator, device=video.device)
        return alpha * video + sigma * eps

    def before(self, video: Tensor, last: Tensor | None = None) -> Tensor:
        """The `see` frames before each of (B, T, C, H, W), newest first: (B, T, see, C, H, W).

        last: (B, see, C, H, W), those before the first, newest first; 0 where nothing was.
        """
        see, count = self.config.see, video.shape[1]
        if last is None:
            last = video.new_zeros(len(video), see, *video.shape[2:])
        line = torch.cat([last.flip(1), video], dim=1)
        shifted = [line[:, see - 1 - i : see - 1 - i + count] for i in range(see)]
        shape = *video.shape[:2], 0, *video.shape[2:]
        return torch.stack(shifted, dim=2) if see else video.new_zeros(shape)

    def _led_by(self, clip: Clip) -> Tensor:
        return F.pad(clip.actions[:, : clip.actions.shape[1] - 1], (1, 0), value=UNKNOWN)

    def _told(self, led_by: Tensor, generator: torch.Generator) -> Tensor:
        """What the network is told of the actions: in training not all."""
        if not self.training:
            return led_by
        chance = torch.rand(led_by.shape, generator=generator, device=led_by.device)
        return led_by.masked_fill(chance < self.config.drop_actions, UNKNOWN)

    def _check(self, led_by: Tensor) -> None:
        """Raises WorkshopError for actions that there are not (on the CPU; a GPU would have to
        wait for the answer)."""
        outside = (led_by < UNKNOWN) | (led_by >= self.num_actions)
        if led_by.device.type == "cpu" and outside.any():
            raise WorkshopError(
                f"actions must be 0 to {self.num_actions - 1}, or {UNKNOWN} for unknown, got"
                f" {led_by[outside][0].item()}"
            )

    @torch.no_grad()
    def recall(self, frames: Tensor, led_by: Tensor, memory: Memory | None = None) -> Memory:
        """As in Denoiser. The past is clean, and said to have a little noise."""
        video, see = frames_to_video(frames), self.config.see
        if memory is None:
            memory = Memory(self.net.new_cache(len(video)), self.before(video)[:, 0], None)
        before, guess = self.before(video, memory.last), None
        if self.mean is not None:
            memory.past, guess = Past.of(self.mean, frames, led_by, memory.past), video
        level = torch.full_like(led_by, self.stabilization, dtype=torch.float32)
        self(video, level, led_by, before, guess, cache=memory.cache)
        memory.last = torch.cat([memory.last.flip(1), video], dim=1).flip(1)[:, :see]
        return memory

    @torch.no_grad()
    def denoise(self, x: Tensor, level: Tensor, led_by: Tensor, memory: Memory) -> Tensor:
        """As in Denoiser: one pass over one frame; with a predictor inside, of pure noise the mean
        is believed, without a pass."""
        guess, past = None, memory.past
        if self.mean is not None and past is not None:
            told = not bool((led_by == UNKNOWN).all())
            guess = past.mean_after(led_by, self.mean)[:, None] if told else past.video[:, -1:]
            if told and level >= self.schedule.top:
                return guess[:, 0]
        levels, before = level.expand(len(x), 1), memory.last[:, None]
        how = {"cache": memory.cache, "write": False}
        return self(x[:, None], levels, led_by[:, None], before, guess, **how)[:, 0]

    def predict(self, frames: Tensor, actions: Tensor, seed: int = 0) -> Tensor:
        """An open-loop rollout: models/denoising.py."""
        return rollout(self, frames, actions, seed)

    def preview(self, clip: Clip) -> dict[str, Tensor]:
        """The clip, and the dream of it after its first frames: three, or half of them."""
        shown = min(3, clip.frames.shape[1] // 2)
        dream = self.predict(clip.frames[:, :shown], clip.actions[:, :-1])
        return {"real": clip.frames, "dream": torch.cat([clip.frames[:, :shown], dream], dim=1)}

    def for_play(self) -> Diffusion:
        """A copy that computes the same, quicker, and cannot be trained."""
        return packed(self)

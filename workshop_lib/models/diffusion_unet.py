"""Diffusion with a conv U-Net: the mean first, then a sample of what the mean does not know.

A next-frame predictor (models/next_frame.py) knows what an action does to all that is in view, and
blurs where several futures are possible: ground that comes newly into view. So one stands inside
this model. It says the mean of the next frame, and a second network, told that mean, takes noise
from noisy pictures of the next frame (models/diffusion_math.py): it makes of the blur one sharp
picture that could come. Steering thus comes from the first and is learned as quickly, sharpness
from the second (Mardani et al. 2023, "CorrDiff", do the same for weather).

Pure noise tells nothing: what is to be believed there is the mean. So a sampler's first step costs
no pass, and with a single step the world is that of the next-frame predictor.

Both learn together. The picture that the model makes of a noisy frame in training is one of those
that it sees in the next: still about what really came, but with the faults of its own pictures. So
it learns to go on from these, and dreams stay clear for long.

Without the mean (`with_mean` False) the second network stands alone and has to learn steering
through the noise. Schedule "edm" then makes it DIAMOND (Alonso et al. 2024): the last frames as
channels, noise level and actions by FiLM, Karras et al.'s preconditioning, 3 steps of Euler.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib.data.clip import Clip, frames_to_video
from workshop_lib.errors import WorkshopError
from workshop_lib.models.denoising import UNKNOWN, check_play, rollout
from workshop_lib.models.diffusion_math import SamplerName, loss_weight, precondition
from workshop_lib.models.expected import Past, check_mean
from workshop_lib.models.next_frame import NextFrame, NextFrameConfig, check_length
from workshop_lib.models.noise_schedules import EDMSchedule, FlowSchedule, Schedule
from workshop_lib.models.spoiling import spoil
from workshop_lib.models.tokenizer import psnr
from workshop_lib.nn.dit import NoiseEmbedding
from workshop_lib.nn.frame_unet import UNetBody
from workshop_lib.nn.packed import packed


@dataclass(frozen=True)
class DiffusionUNetConfig:
    """mean: the predictor inside; its frames, num_actions, patch, cond_dim, noise, short,
        spoiled and unroll hold for both.
    with_mean: False leaves the predictor out, and of `mean` only those hold.
    width, depth, middle: of the network that takes noise away, as in FrameUNetConfig.
    size: height and width of the frames that it samples.
    schedule: "flow": x = (1 - t) frame + t noise; the network says what to add to the mean, or to
        the last frame, to have the next one. "edm": x = frame + sigma noise, with preconditioning
        (models/diffusion_math.py), and without the mean.
    level_mean, level_std: training levels: ln sigma, or ln(t / (1 - t)), is N(mean, std).
    most: with "flow" the squared error of a cleaned frame counts 1 / t^2, at most this.
    data_std: with "edm" the spread of all pixels in [-1, 1]: CoinRun's is .67 on easy levels and
        .54 on hard ones; DIAMOND takes .5 for every game.
    steps, sampler: of play. 1 step shows the mean, where there is one.
    """

    mean: NextFrameConfig = field(default_factory=lambda: NextFrameConfig(unroll=4))
    width: int = 32
    depth: int = 2
    middle: int = 4
    size: int = 64
    with_mean: bool = True
    schedule: Literal["flow", "edm"] = "flow"
    level_mean: float = -0.4
    level_std: float = 1.2
    most: float = 20.0
    data_std: float = 0.5
    steps: int = 4
    sampler: SamplerName = "euler"

    guidance: ClassVar[float] = 1.0  # none: it always knows the action

    def __post_init__(self) -> None:
        NextFrameConfig(width=self.width, depth=self.depth, middle=self.middle)  # says what is off
        check_mean(self.mean)
        if self.schedule not in ("flow", "edm"):
            raise WorkshopError(f"model.schedule {self.schedule!r}: choose flow or edm")
        if self.schedule == "edm" and self.with_mean:
            raise WorkshopError(
                "model.schedule edm goes without the mean: set model.with_mean to false"
            )
        if min(self.level_std, self.most, self.data_std) <= 0:
            raise WorkshopError("model.level_std, model.most and model.data_std must be above 0")
        if self.size < 1 or self.size % (2 * self.mean.patch):
            raise WorkshopError(
                f"model.size {self.size} must be a multiple of {2 * self.mean.patch} (twice the "
                f"patch)"
            )
        check_play(self.steps, self.sampler, self.make_schedule())

    def make_schedule(self) -> Schedule:
        made = EDMSchedule if self.schedule == "edm" else FlowSchedule
        return made(mean=self.level_mean, std=self.level_std)


class DiffusionUNet(nn.Module):
    """Past frames (B, k, C, H, W), actions (B, k) and a noisy next frame to the clean one.

    `actions[:, i]` is what was pressed after seeing frame i; the last one leads to the next frame.
    """

    def __init__(self, config: DiffusionUNetConfig) -> None:
        super().__init__()
        self.config, mean = config, config.mean
        self.schedule = config.make_schedule()
        self.num_actions, self.size = mean.num_actions, config.size
        self.context = self.kept = mean.frames
        self.mean = NextFrame(mean)
        if not config.with_mean:  # what remains knows how to cut, fill up and blemish a past
            del self.mean.net, self.mean.actions
        self.level = NoiseEmbedding(mean.cond_dim)
        self.actions = nn.ModuleList(
            nn.Embedding(mean.num_actions + 1, mean.cond_dim) for _ in range(mean.frames)
        )
        pictures = mean.frames + 1 + config.with_mean  # the past, the noisy one and the mean
        self.body = UNetBody(
            pictures * 3 * mean.patch**2, config.width, mean.cond_dim, config.depth, config.middle
        )
        self.head = nn.Conv2d(config.width, 3 * mean.patch**2, 3, padding=1)
        nn.init.zeros_(self.head.weight)  # untrained, it leaves the mean or last frame as it is
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        if config.schedule == "edm":
            # Preconditioned, a network has to say the noise, too: 48 numbers for every patch of 4 x
            # 4 pixels, which do not fit through `width` channels beside all else. So x also goes
            # straight to the end, as strongly as its noise level calls for. Without, samples stay
            # noisy: a clip learned by heart came back at 18 dB instead of 25.
            self.straight = nn.Linear(mean.cond_dim, 1)
            nn.init.zeros_(self.straight.weight)
            nn.init.zeros_(self.straight.bias)

    def forward(
        self,
        x: Tensor,
        level: Tensor,
        video: Tensor,
        actions: Tensor,
        mean: Tensor | None = None,
    ) -> Tensor:
        """The clean next frame (B, C, H, W) that x (B, C, H, W) means at levels (B,), given the
        past and, if a predictor stands inside, the mean of what follows from it."""
        places = [table(actions[:, i]) for i, table in enumerate(self.actions)]
        cond = torch.stack([self.level(self.schedule.label(level)), *places]).sum(dim=0)
        if self.config.schedule == "flow":
            base = video[:, -1] if mean is None else mean
            return base + self._residual(cond, video, x, *([] if mean is None else [mean]))
        alpha, sigma = self._alpha_sigma(level)
        skip, out, shrink, _ = precondition(alpha, sigma, self.config.data_std)
        straight = self.straight(F.silu(cond))[:, :, None, None].float() * shrink * x
        return skip * x + out * (straight + self._residual(cond, video, shrink * x))

    def _residual(self, cond: Tensor, video: Tensor, *pictures: Tensor) -> Tensor:
        """What the body makes, (B, C, H, W), of the past and pictures of the same shape."""
        patch, seen = self.config.mean.patch, torch.cat([video.flatten(1, 2), *pictures], dim=1)
        maps = self.head(self.body(F.pixel_unshuffle(seen, patch), cond))
        return F.pixel_shuffle(maps, patch).float()

    def _alpha_sigma(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Those of levels (B,), each (B, 1, 1, 1)."""
        alpha, sigma = self.schedule.alpha_sigma(level)
        return alpha[:, None, None, None], sigma[:, None, None, None]

    def loss(self, clip: Clip) -> tuple[Tensor, dict[str, Tensor]]:
        """The error of the mean, if there is one, and that of frames cleaned of noise at random
        levels, added up; both the mean over `unroll` frames one after the other.

        Logs psnr, of the mean of the first of these, if there is one; psnr_copy, of showing the
        frame before once more; and psnr_clean, of cleaned frames. In evaluation the noise is always
        the same.

        Raises WorkshopError for clips shorter than k + unroll frames, of another size, or without
        actions.
        """
        k, unroll = self.config.mean.frames, self.config.mean.unroll
        self._check(clip, k + unroll)
        generator = torch.Generator(clip.frames.device)
        generator.manual_seed(int(torch.randint(2**31, ())) if self.training else 0)
        video, count = frames_to_video(clip.frames[:, : k + unroll]), self.mean.unrolled()
        past, pressed = video[:, :k], clip.actions[:, :k]
        if self.training:
            past, pressed = self.mean.shorten(spoil(past, self.config.mean.spoiled), pressed)
        pressed = torch.cat([pressed, clip.actions[:, k : k + count - 1]], dim=1)
        losses, means, cleaned = [], [], []
        for step in range(count):
            seen = self.mean.blemish(past) if self.training else past
            real, actions = video[:, k + step], pressed[:, step : step + k]
            mean = self.mean(seen, actions) if self.config.with_mean else None
            given = None if mean is None else mean.detach()
            clean, weight = self._clean(seen, actions, given, real, generator)
            error = (weight * (clean - real).square()).mean()
            losses.append(error if mean is None else self.mean.error(mean, real) + error)
            means.append(given)
            cleaned.append(clean.detach())
            past = torch.cat([past[:, 1:], cleaned[-1].clamp(-1, 1)[:, None]], dim=1)
        logs = {
            "psnr_copy": psnr(video[:, k - 1], video[:, k]),
            "psnr_clean": psnr(torch.stack(cleaned, dim=1), video[:, k : k + count]),
        }
        if means[0] is not None:
            logs["psnr"] = psnr(means[0], video[:, k])
        return torch.stack(losses).mean(), logs

    def _clean(
        self,
        video: Tensor,
        actions: Tensor,
        mean: Tensor | None,
        real: Tensor,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """The next frame after noise of a random level was put on it and taken away, and how much
        an error in it counts, (B, 1, 1, 1)."""
        level = self.schedule.draw((len(real),), generator)
        alpha, sigma = self._alpha_sigma(level)
        eps = torch.randn(real.shape, generator=generator, device=real.device)
        clean = self(alpha * real + sigma * eps, level, video, actions, mean)
        if self.config.schedule == "edm":
            return clean, precondition(alpha, sigma, self.config.data_std).weight
        return clean, loss_weight("flow", alpha, sigma, self.config.most)

    def _check(self, clip: Clip, length: int) -> None:
        check_length(clip, length)
        size = self.config.size
        if tuple(clip.frames.shape[2:]) != (size, size, 3):
            raise WorkshopError(
                f"data: frames of {' x '.join(map(str, clip.frames.shape[2:]))}, but model.size "
                f"is {size}"
            )
        actions = clip.actions[:, : length - 1]
        if not actions.is_cuda and bool(((actions < 0) | (actions >= self.num_actions)).any()):
            raise WorkshopError(
                f"data: actions must be 0 to {self.num_actions - 1}, got {int(actions.min())} to "
                f"{int(actions.max())} (-1 stands for unknown)"
            )

    @torch.no_grad()
    def recall(self, frames: Tensor, led_by: Tensor, memory: Past | None = None) -> Past:
        """As in Denoiser: the last frames, and what was pressed between them."""
        return Past.of(self.mean, frames, led_by, memory)

    @torch.no_grad()
    def denoise(self, x: Tensor, level: Tensor, led_by: Tensor, memory: Past) -> Tensor:
        """As in Denoiser: one pass, and with a new action another one for the mean.

        Raises WorkshopError where the action is left out: guidance is not for this model.
        """
        if memory.led_by is not led_by and bool((led_by == UNKNOWN).any()):
            raise WorkshopError("guidance: this model always knows the action; leave it at 1")
        mean = memory.mean_after(led_by, self.mean) if self.config.with_mean else None
        if mean is not None and level >= self.schedule.top:
            return mean
        return self(x, level.expand(len(x)), memory.video, memory.then(led_by), mean)

    def predict(self, frames: Tensor, actions: Tensor, seed: int = 0) -> Tensor:
        """An open-loop rollout: models/denoising.py."""
        return rollout(self, frames, actions, seed)

    def preview(self, clip: Clip) -> dict[str, Tensor]:
        """The clip, and the dream of it after its first k frames."""
        k = self.config.mean.frames
        check_length(clip, k + 1)
        dream = self.predict(clip.frames[:, :k], clip.actions[:, :-1])
        return {"real": clip.frames, "dream": torch.cat([clip.frames[:, :k], dream], dim=1)}

    def for_play(self) -> DiffusionUNet:
        """A copy that computes the same, quicker, and cannot be trained."""
        return packed(self)

"""The video tokenizer: frames to a small grid of tokens, and back.

    encoder -> quantizer -> decoder

Encoder and decoder (models/coders.py) are a per-frame ResNet, a causal space-time ViT (Genie,
Bruce et al. 2024) or MAGVIT-2 (Yu et al. 2023); the quantizer (nn/quantizers.py) is VQ, FSQ or LFQ.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib.data.clip import Clip, frames_to_video, video_to_frames
from workshop_lib.errors import WorkshopError
from workshop_lib.models.coders import CoderConfig, make_coders
from workshop_lib.models.perceptual import PerceptualLoss
from workshop_lib.nn.quantizers import (
    FSQConfig,
    LFQConfig,
    Quantized,
    VQConfig,
    make_quantizer,
)


@dataclass(frozen=True)
class TokenizerConfig(CoderConfig):
    """Encoder and decoder as in CoderConfig, and:

    size: height and width of the frames, in pixels.
    quantizer: vq, fsq or lfq, and its codes.
    loss: what is measured between frame and reconstruction: "mse", "huber" or "l1"; "log_mse" is
        each frame's mean square in nats, so that a frame counts as it does in PSNR: twice the
        error is the same loss in a plain frame as in a busy one.
    perceptual: weight of the distance between VGG-16 features; 0 leaves it out.
    train_encoder: False leaves encoder and codes as they began (`--start_from` a trained one): the
        decoder alone learns, and models trained on the old tokens stay good.
    """

    size: int = 64
    quantizer: VQConfig | FSQConfig | LFQConfig = field(default_factory=FSQConfig)
    loss: Literal["mse", "huber", "l1", "log_mse"] = "mse"
    perceptual: float = 0.0
    train_encoder: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size % self.patch:
            raise WorkshopError(
                f"model.size {self.size} must be a multiple of model.patch {self.patch}"
            )
        if self.perceptual < 0:
            raise WorkshopError(f"model.perceptual must not be negative, got {self.perceptual}")

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w), tokens down and across a frame."""
        side = self.size // self.patch
        return side, side


class Tokenizer(nn.Module):
    """uint8 frames (B, T, H, W, C) to tokens int64 (B, T', h, w) and back.

    T' = 1 + (T - 1) / time_patch; a token grid never depends on later frames. K = num_codes.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = make_coders(config, config.grid)
        self.quantizer = make_quantizer(config.quantizer, config.latent_dim)
        self.encoder.requires_grad_(config.train_encoder)
        self.quantizer.requires_grad_(config.train_encoder)
        self.perceptual = PerceptualLoss() if config.perceptual else None

    @property
    def num_codes(self) -> int:
        """K, codes in the codebook."""
        return self.quantizer.num_codes

    @property
    def tokens_per_frame(self) -> float:
        return math.prod(self.config.grid) / self.config.time_patch

    @property
    def bits_per_frame(self) -> float:
        return self.tokens_per_frame * math.log2(self.num_codes)

    @property
    def last_layer(self) -> nn.Parameter:
        """The decoder's last weight, the one that makes pixels."""
        return [p for p in self.decoder.parameters() if p.ndim >= 2][-1]

    def prepare(self) -> None:
        """Loads what the loss needs besides data. Raises WorkshopError if it cannot be had."""
        if self.perceptual is not None:
            self.perceptual.load()

    def forward(self, video: Tensor) -> tuple[Tensor, Quantized]:
        """float (B, T, C, H, W) in [-1, 1] to its reconstruction, like it, and the tokens."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.train_encoder):
            quantized = self.quantizer(self.encoder(video))
        return self.decoder(quantized.vectors.to(video.dtype)), quantized

    @torch.no_grad()
    def encode(self, frames: Tensor) -> Tensor:
        """uint8 (B, T, H, W, C) to tokens int64 (B, T', h, w), 0 to K - 1.

        Raises WorkshopError for frames of another size than the tokenizer's.
        """
        size = self.config.size
        if frames.ndim != 5 or frames.shape[2:4] != (size, size):
            raise WorkshopError(
                f"frames must be (B, T, {size}, {size}, 3), got {tuple(frames.shape)}"
            )
        return self.quantizer(self.encoder(frames_to_video(frames))).tokens

    @torch.no_grad()
    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens int64 (B, T', h, w) to uint8 frames (B, T, H, W, C)."""
        return video_to_frames(self.decoder(self.quantizer.decode(tokens)))

    def reconstruct(self, frames: Tensor) -> Tensor:
        """uint8 frames there and back."""
        return self.decode(self.encode(frames))

    def loss(self, clip: Clip) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruction error plus the quantizer's loss."""
        video = clip.video
        reconstruction, quantized = self(video)
        return self.loss_of(video, reconstruction, quantized)

    def loss_of(
        self, video: Tensor, reconstruction: Tensor, quantized: Quantized
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a reconstruction that is at hand already (the GAN's step shares it)."""
        measures: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "mse": F.mse_loss,
            "huber": F.smooth_l1_loss,
            "l1": F.l1_loss,
            "log_mse": log_mse,
        }
        error = measures[self.config.loss](reconstruction, video)
        loss = error + quantized.loss
        logs = {"psnr": psnr(reconstruction.detach(), video), **quantized.logs}
        if self.perceptual is not None:
            distance = self.perceptual(reconstruction, video)
            loss = loss + self.config.perceptual * distance
            logs["perceptual"] = distance.detach()
        return loss, logs

    def preview(self, clip: Clip) -> dict[str, Tensor]:
        """Frames and their reconstructions, for the pictures that training saves."""
        return {"real": clip.frames, "again": self.reconstruct(clip.frames)}


def log_mse(video: Tensor, target: Tensor) -> Tensor:
    """Natural logarithm of every frame's mean square error, averaged; both (..., C, H, W)."""
    error = (video.float() - target.float()).square().mean(dim=(-3, -2, -1))
    return error.clamp_min(1e-6).log().mean()


def psnr(video: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, averaged over frames; both (..., C, H, W) in [-1, 1]."""
    error = (video.float().clamp(-1, 1) - target.float()).square().mean(dim=(-3, -2, -1))
    return (10 * torch.log10(4.0 / error.clamp_min(1e-10))).mean()

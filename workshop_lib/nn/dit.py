"""The diffusion transformer: noisy frames in, what a denoiser predicts of them out.

Peebles and Xie 2023, "DiT", over video: patches become tokens, the space-time transformer looks
around in the frame and back in time, and what each frame's noise level and action are comes in by
adaptive layer norms (nn/space_time.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from workshop_lib.errors import WorkshopError
from workshop_lib.nn.cache import TimeCache
from workshop_lib.nn.linear import Linear
from workshop_lib.nn.space_time import SpaceTimeConfig, SpaceTimeTransformer

WAVES = 256  # numbers that stand for a noise level before the first layer


@dataclass(frozen=True)
class DiTConfig:
    """size: height and width of a frame in pixels.
    patch: pixels of a square that becomes a token.
    dim, depth, heads: width D, blocks and attention heads.
    window: W, frames that time attention sees, the present one included.
    qk_norm: normalize queries and keys.
    """

    size: int = 64
    patch: int = 8
    dim: int = 128
    depth: int = 4
    heads: int = 4
    window: int = 16
    qk_norm: bool = True
    kind: Literal["dit"] = "dit"

    def __post_init__(self) -> None:
        if self.patch < 1 or self.size % self.patch:
            raise WorkshopError(f"net.size {self.size} must be a multiple of patch {self.patch}")
        _ = self.transformer  # says what does not fit

    @property
    def transformer(self) -> SpaceTimeConfig:
        side = self.size // self.patch
        return SpaceTimeConfig(
            self.dim,
            self.depth,
            self.heads,
            (side, side),
            self.window,
            cond_dim=self.dim,
            qk_norm=self.qk_norm,
        )

    @property
    def reach(self) -> int:
        """How many frames back a frame's prediction depends on, through all blocks."""
        return (self.window - 1) * self.depth


class DiT(nn.Module):
    """video (B, T, C_in, H, W), labels (B, T) of its noise and the actions that led to its frames
    to maps (B, T, C_out, H, W). Untrained, the maps are 0."""

    def __init__(
        self, config: DiTConfig, channels_in: int, channels_out: int, num_actions: int
    ) -> None:
        super().__init__()
        self.config, self.num_actions = config, num_actions
        dim, patch = config.dim, config.patch
        self.actions = nn.Embedding(num_actions + 1, dim)  # the last one: none
        nn.init.normal_(self.actions.weight, std=0.5)
        self.noise = NoiseEmbedding(dim)
        self.transformer = SpaceTimeTransformer(config.transformer)
        self.to_tokens = Linear(channels_in * patch**2, dim)
        self.head = Linear(dim, channels_out * patch**2)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)

    def condition(self, label: Tensor, led_by: Tensor) -> Tensor:
        """Noise labels and int64 actions, both (B, T), to (B, T, D); action -1: none."""
        return self.noise(label) + self.actions(led_by % (self.num_actions + 1))

    def forward(
        self,
        video: Tensor,
        label: Tensor,
        led_by: Tensor,
        cache: TimeCache | None = None,
        write: bool = True,
        drafts: bool = False,
    ) -> Tensor:
        """cache, write, drafts: as in SpaceTimeTransformer. With drafts only their maps come back.

        Raises WorkshopError for frames of another size.
        """
        count, patch = video.shape[1], self.config.patch
        if video.shape[-2:] != (self.config.size,) * 2:
            raise WorkshopError(
                f"frames of {tuple(video.shape[-2:])} pixels: this model has net.size"
                f" {self.config.size}"
            )
        patches = F.pixel_unshuffle(video.flatten(0, 1), patch)  # (B T) C * patch^2, h, w
        x = self.to_tokens(patches.flatten(2).transpose(1, 2)).unflatten(0, (-1, count))
        x = self.transformer(x, self.condition(label, led_by), cache, write, drafts)
        maps = self.head(x[:, count // 2 :] if drafts else x)
        maps = rearrange(maps, "b t (h w) c -> b t c h w", h=patches.shape[2])
        return F.pixel_shuffle(maps, patch)

    def new_cache(self, batch_size: int) -> TimeCache:
        return self.transformer.new_cache(batch_size)


class NoiseEmbedding(nn.Module):
    """A number from about 0 to 1000 for each frame, (B, T), to a vector (B, T, D).

    Waves of 128 wavelengths, from 2 pi to 20,000 pi, then two layers: as in DiT, section 3.2.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(WAVES, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, label: Tensor) -> Tensor:
        return self.mlp(waves(label))


def waves(label: Tensor) -> Tensor:
    """(...,) to (..., 256): 128 cosines and then the sines, ever slower."""
    half = WAVES // 2
    speed = torch.exp(-math.log(10_000) * torch.arange(half, device=label.device) / half)
    angle = label.float()[..., None] * speed
    return torch.cat([angle.cos(), angle.sin()], dim=-1)

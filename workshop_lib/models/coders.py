"""Encoders and decoders of the video tokenizer, three kinds behind one pair of calls.

    encoder(video (B, T, C, H, W)) -> latents (B, T', h, w, D)
    decoder(latents (B, T', h, w, D)) -> video (B, T, C, H, W)

T' = 1 + (T - 1) / time_patch, and no latent depends on a later frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from workshop_lib.errors import WorkshopError
from workshop_lib.nn.conv import (
    CausalConv,
    Downsample,
    FrameNorm,
    ResidualBlock,
    Upsample,
    channels_last,
    depth_to_space,
    space_to_depth,
)
from workshop_lib.nn.space_time import SpaceTimeConfig, SpaceTimeTransformer

CHANNELS = 3
FIRST_PATCH = 4  # the conv coder folds 4x4 pixels into channels before its first convolution


@dataclass(frozen=True)
class CoderConfig:
    """architecture: "conv", a per-frame ResNet, the quickest on CPUs; "vit", a causal space-time
        transformer (ST-ViViT: Bruce et al. 2024); "magvit2", causal 3-D convolutions (Yu et al.
        2023).
    patch: pixels across one token: 8 makes 8x8 tokens of a 64x64 frame.
    time_patch: frames per token grid, after the first (magvit2 only).
    dim: width. conv: at 1/4 of the frame's size, doubled at each halving; vit: everywhere;
        magvit2: at full size, doubled at each halving.
    depth: residual blocks at each size, or transformer blocks, each for encoder and decoder.
    heads, window: of the vit: attention heads, and frames that it looks back over.
    latent_dim: width D of what is quantized.
    """

    architecture: Literal["conv", "vit", "magvit2"] = "conv"
    patch: int = 8
    time_patch: int = 1
    dim: int = 64
    depth: int = 2
    heads: int = 4
    window: int = 16
    latent_dim: int = 64

    def __post_init__(self) -> None:
        for name in ("patch", "time_patch", "dim", "depth", "latent_dim"):
            if getattr(self, name) < 1:
                raise WorkshopError(f"model.{name} must be 1 or more, got {getattr(self, name)}")
        if self.patch & (self.patch - 1) or self.time_patch & (self.time_patch - 1):
            raise WorkshopError(
                f"model.patch {self.patch} and time_patch {self.time_patch} must be powers of 2"
            )
        if self.time_patch > 1 and self.architecture != "magvit2":
            raise WorkshopError("model.time_patch: only the magvit2 architecture shrinks time")
        if self.architecture == "conv" and self.patch < FIRST_PATCH:
            raise WorkshopError(f"model.patch of the conv architecture is {FIRST_PATCH} or more")


def make_coders(config: CoderConfig, grid: tuple[int, int]) -> tuple[nn.Module, nn.Module]:
    """Encoder and decoder. grid: (h, w), tokens down and across."""
    if config.architecture == "conv":
        return ConvEncoder(config), ConvDecoder(config)
    if config.architecture == "vit":
        return ViTEncoder(config, grid), ViTDecoder(config, grid)
    return Magvit2Encoder(config), Magvit2Decoder(config)


def to_latents(video: Tensor) -> Tensor:
    """(B, T, D, h, w) to (B, T, h, w, D)."""
    return video.movedim(2, -1)


def from_latents(latents: Tensor) -> Tensor:
    """(B, T, h, w, D) to (B, T, D, h, w)."""
    return latents.movedim(-1, 2)


def _halvings(factor: int) -> int:
    return factor.bit_length() - 1


class ConvEncoder(nn.Module):
    """Each frame by itself: 4x4 pixels into channels, then residual blocks and halvings."""

    def __init__(self, config: CoderConfig) -> None:
        super().__init__()
        width = config.dim
        layers: list[nn.Module] = [CausalConv(CHANNELS * FIRST_PATCH**2, width)]
        layers += [ResidualBlock(width, width) for _ in range(config.depth)]
        for _ in range(_halvings(config.patch // FIRST_PATCH)):
            layers.append(Downsample(width, 2 * width, blur=False))
            width *= 2
            layers += [ResidualBlock(width, width) for _ in range(config.depth)]
        layers += [FrameNorm(width), nn.SiLU(), CausalConv(width, config.latent_dim, kernel=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, video: Tensor) -> Tensor:
        return to_latents(self.layers(space_to_depth(channels_last(video), FIRST_PATCH)))


class ConvDecoder(nn.Module):
    """The encoder's mirror image."""

    def __init__(self, config: CoderConfig) -> None:
        super().__init__()
        halvings = _halvings(config.patch // FIRST_PATCH)
        width = config.dim * 2**halvings
        layers: list[nn.Module] = [CausalConv(config.latent_dim, width)]
        layers += [ResidualBlock(width, width) for _ in range(config.depth)]
        for _ in range(halvings):
            layers.append(Upsample(width, width // 2))
            width //= 2
            layers += [ResidualBlock(width, width) for _ in range(config.depth)]
        layers += [FrameNorm(width), nn.SiLU(), CausalConv(width, CHANNELS * FIRST_PATCH**2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        return depth_to_space(self.layers(channels_last(from_latents(latents))), FIRST_PATCH)


class ViTEncoder(nn.Module):
    """Patches to vectors, then attention over space and over past time."""

    def __init__(self, config: CoderConfig, grid: tuple[int, int]) -> None:
        super().__init__()
        self.patch = config.patch
        self.to_dim = nn.Linear(CHANNELS * config.patch**2, config.dim)
        self.transformer = SpaceTimeTransformer(_transformer_config(config, grid))
        self.to_latent = nn.Linear(config.dim, config.latent_dim)

    def forward(self, video: Tensor) -> Tensor:
        # B T C H W -> B T N (C p p)
        patches = rearrange(
            video, "b t c (h p) (w q) -> b t (h w) (c p q)", p=self.patch, q=self.patch
        )
        latents = self.to_latent(self.transformer(self.to_dim(patches)))
        rows = video.shape[-2] // self.patch
        return rearrange(latents, "b t (h w) d -> b t h w d", h=rows)


class ViTDecoder(nn.Module):
    """Attention over space and past time, then vectors to patches."""

    def __init__(self, config: CoderConfig, grid: tuple[int, int]) -> None:
        super().__init__()
        self.patch, self.grid = config.patch, grid
        self.to_dim = nn.Linear(config.latent_dim, config.dim)
        self.transformer = SpaceTimeTransformer(_transformer_config(config, grid))
        self.to_pixels = nn.Linear(config.dim, CHANNELS * config.patch**2)

    def forward(self, latents: Tensor) -> Tensor:
        x = self.transformer(self.to_dim(latents.flatten(2, 3)))
        return rearrange(
            self.to_pixels(x),
            "b t (h w) (c p q) -> b t c (h p) (w q)",
            h=self.grid[0],
            p=self.patch,
            q=self.patch,
        )


def _transformer_config(config: CoderConfig, grid: tuple[int, int]) -> SpaceTimeConfig:
    return SpaceTimeConfig(config.dim, config.depth, config.heads, grid, config.window)


class Magvit2Encoder(nn.Module):
    """Causal 3-D convolutions; space halves `patch` times over, time in the last halvings."""

    def __init__(self, config: CoderConfig) -> None:
        super().__init__()
        width = config.dim
        layers: list[nn.Module] = [CausalConv(CHANNELS, width, time_kernel=3)]
        layers += [ResidualBlock(width, width, time_kernel=3) for _ in range(config.depth)]
        for space, time in _factors(config):
            layers.append(Downsample(width, 2 * width, space, time))
            width *= 2
            layers += [ResidualBlock(width, width, time_kernel=3) for _ in range(config.depth)]
        layers += [FrameNorm(width), nn.SiLU(), CausalConv(width, config.latent_dim, kernel=1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, video: Tensor) -> Tensor:
        return to_latents(self.layers(channels_last(video)))


class Magvit2Decoder(nn.Module):
    """The mirror image, whose norms read the latents again at every size."""

    def __init__(self, config: CoderConfig) -> None:
        super().__init__()
        factors = _factors(config)[::-1]
        width = config.dim * 2 ** len(factors)
        self.first = CausalConv(config.latent_dim, width, time_kernel=3)
        self.layers = nn.ModuleList(self._blocks(width, config))
        for space, time in factors:
            self.layers.append(Upsample(width, width // 2, space, time))
            width //= 2
            self.layers.extend(self._blocks(width, config))
        self.norm, self.last = FrameNorm(width), CausalConv(width, CHANNELS, time_kernel=3)

    @staticmethod
    def _blocks(width: int, config: CoderConfig) -> list[nn.Module]:
        return [
            ResidualBlock(width, width, time_kernel=3, latent_dim=config.latent_dim)
            for _ in range(config.depth)
        ]

    def forward(self, latents: Tensor) -> Tensor:
        latent = channels_last(from_latents(latents))
        x = self.first(latent)
        for layer in self.layers:
            x = layer(x, latent) if isinstance(layer, ResidualBlock) else layer(x)
        return self.last(F.silu(self.norm(x)))


def _factors(config: CoderConfig) -> list[tuple[int, int]]:
    """(space, time) of each halving; time shrinks in the last ones, where frames are small."""
    space, time = _halvings(config.patch), _halvings(config.time_patch)
    count = max(space, time)
    return [(2 if k < space else 1, 2 if k >= count - time else 1) for k in range(count)]

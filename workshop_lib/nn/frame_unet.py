"""The last frames and a condition in, the next frame out: one pass of a small conv U-Net.

It says for every pixel where in the last frame its color comes from, a displacement, and what to
add, a residual in color. CoinRun's camera follows the player, so most of a new frame is the old one
moved: with the displacement the network need not paint it again, and what it sees stays sharp.

The condition (the sum of the last actions' embeddings; a latent action) scales and shifts the
features of every block (FiLM, Perez et al. 2018). In the middle of the U the whole picture's mean
and maximum are added to it, so that all places agree on one motion.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib.errors import WorkshopError

GROUPS = 8  # of the group norms


@dataclass(frozen=True)
class FrameUNetConfig:
    """frames: k, how many of the last frames the network sees.
    channels: C of a frame: 3, or 1 for gray.
    patch: pixels of a square that is folded into channels before the first convolution.
    width: channels at 1 / patch of the frame's size, a multiple of 8; twice as many in the middle,
        at half that size.
    depth: residual blocks on the way down, and again on the way up.
    middle: residual blocks in the middle, which looks at the whole picture before the first and
        half-way.
    cond_dim: width D of the condition.
    displacement: False leaves the residual alone, added to the last frame.
    ahead: how many frames come out of one pass.
    """

    frames: int = 4
    channels: int = 3
    patch: int = 4
    width: int = 32
    depth: int = 2
    middle: int = 4
    cond_dim: int = 128
    displacement: bool = True
    ahead: int = 1

    def __post_init__(self) -> None:
        for name in ("frames", "channels", "patch", "depth", "middle", "cond_dim", "ahead"):
            if getattr(self, name) < 1:
                raise WorkshopError(f"model.{name} must be 1 or more, got {getattr(self, name)}")
        if self.width < GROUPS or self.width % GROUPS:
            raise WorkshopError(f"model.width {self.width} must be a multiple of {GROUPS}")


class FrameUNet(nn.Module):
    """video (B, k, C, H, W) in [-1, 1], the last k frames, oldest first, and condition (B, D) to
    the next frame (B, C, H, W). Frames may have any size.

    Untrained, it repeats the last frame: the layer that makes displacement and residual starts at
    0.
    """

    def __init__(self, config: FrameUNetConfig) -> None:
        super().__init__()
        self.config = config
        self.body = UNetBody(
            config.frames * config.channels * config.patch**2,
            config.width,
            config.cond_dim,
            config.depth,
            config.middle,
        )
        self.maps = config.channels + (2 if config.displacement else 0)  # of a frame
        outputs = config.ahead * self.maps * config.patch**2
        self.head = nn.Conv2d(config.width, outputs, 3, padding=1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, video: Tensor, cond: Tensor) -> Tensor:
        """The next frame, float (B, C, H, W), about in [-1, 1] (not clipped).

        Raises WorkshopError for a video of another number of frames or channels.
        """
        return self.parts(video, cond)[0]

    def parts(self, video: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """The next frame, and the displacement (B, 2, H, W), right and down, in pixels.

        next(p) = last(p - displacement(p)) + residual(p); 0 for a network without displacement.
        """
        frames, displacements = self.several(video, cond)
        return frames[:, 0], displacements[:, 0]

    def several(self, video: Tensor, cond: Tensor) -> tuple[Tensor, Tensor]:
        """All frames of one pass, (B, ahead, C, H, W), each by a displacement of the last frame
        seen, (B, ahead, 2, H, W), and a residual."""
        config = self.config
        if video.ndim != 5 or video.shape[1:3] != (config.frames, config.channels):
            raise WorkshopError(
                f"video must be (B, {config.frames}, {config.channels}, H, W), "
                f"got {tuple(video.shape)}"
            )
        height, width = video.shape[-2:]
        x = F.pixel_unshuffle(_pad(video.flatten(1, 2), 2 * config.patch), config.patch)
        x = F.pixel_shuffle(self.head(self.body(x, cond)), config.patch)[..., :height, :width]
        x = x.float().unflatten(1, (config.ahead, self.maps))
        last = video[:, -1:].expand(-1, config.ahead, -1, -1, -1)
        residual, displacement = x[:, :, : config.channels], x[:, :, config.channels :]
        if not config.displacement:
            return last + residual, torch.zeros_like(x[:, :, :2])
        moved = displace(last.flatten(0, 1), displacement.flatten(0, 1))
        return moved.unflatten(0, last.shape[:2]) + residual, displacement


def displace(frame: Tensor, displacement: Tensor) -> Tensor:
    """Moves the pixels of (B, C, H, W) by (B, 2, H, W) pixels, right and down.

    moved(p) = frame(p - displacement(p)), between pixels by bilinear interpolation, and beyond
    the edge the edge's color.
    """
    height, width = frame.shape[-2:]
    y = torch.arange(height, device=frame.device, dtype=displacement.dtype)
    x = torch.arange(width, device=frame.device, dtype=displacement.dtype)
    source_x = x - displacement[:, 0]  # B H W
    source_y = y[:, None] - displacement[:, 1]
    # grid_sample counts from -1 at the first pixel's outer edge to 1 at the last one's
    grid = torch.stack([(2 * source_x + 1) / width - 1, (2 * source_y + 1) / height - 1], dim=-1)
    return F.grid_sample(frame.to(grid.dtype), grid, padding_mode="border", align_corners=False)


class UNetBody(nn.Module):
    """Maps (B, C_in, h, w), h and w even, and a condition (B, D) to features (B, width, h, w)."""

    def __init__(
        self, channels_in: int, width: int, cond_dim: int, depth: int, middle: int
    ) -> None:
        super().__init__()
        wide = 2 * width
        self.first = nn.Conv2d(channels_in, width, 3, padding=1)
        self.down = nn.ModuleList(FilmBlock(width, cond_dim) for _ in range(depth))
        self.shrink = nn.Conv2d(width, wide, 4, stride=2, padding=1)
        blocks: list[nn.Module] = [FilmBlock(wide, cond_dim) for _ in range(middle)]
        blocks.insert(middle // 2, GlobalLook(wide, cond_dim))
        self.middle = nn.ModuleList([GlobalLook(wide, cond_dim), *blocks])
        self.grow = nn.Conv2d(wide, 4 * width, 1)
        self.join = nn.Conv2d(2 * width, width, 1)
        self.up = nn.ModuleList(FilmBlock(width, cond_dim) for _ in range(depth))
        self.norm = nn.GroupNorm(GROUPS, width)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        x = self.first(x)
        for block in self.down:
            x = block(x, cond)
        skip, x = x, self.shrink(x)
        for block in self.middle:
            if isinstance(block, GlobalLook):
                cond = block(x, cond)
            else:
                x = block(x, cond)
        x = self.join(torch.cat([F.pixel_shuffle(self.grow(x), 2), skip], dim=1))
        for block in self.up:
            x = block(x, cond)
        return F.silu(self.norm(x))


class FilmBlock(nn.Module):
    """x + conv(silu(film(norm(conv(silu(norm(x))))))), where film is (1 + scale) · + shift with
    scale and shift read from the condition. Starts as the identity."""

    def __init__(self, channels: int, cond_dim: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, channels, affine=False)
        self.film = nn.Linear(cond_dim, 2 * channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """(B, C, h, w) and (B, D) to (B, C, h, w)."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.film(F.silu(cond))[:, :, None, None].chunk(2, dim=1)
        hidden = torch.addcmul(shift, self.norm2(hidden), 1 + scale)
        return x + self.conv2(F.silu(hidden))


class GlobalLook(nn.Module):
    """Adds the mean and the maximum of a map (B, C, h, w), over all places, to the condition."""

    def __init__(self, channels: int, cond_dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(2 * channels, cond_dim)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        return cond + self.project(torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1))


def _pad(x: Tensor, multiple: int) -> Tensor:
    """(B, C, H, W) with its last row and column repeated until both sizes are multiples."""
    height, width = x.shape[-2:]
    margin = (0, -width % multiple, 0, -height % multiple)
    return F.pad(x, margin, mode="replicate") if any(margin) else x

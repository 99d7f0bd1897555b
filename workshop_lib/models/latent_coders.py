"""What a latent action model is made of: encoders that read a transition, decoders that draw it.

Transition t of a clip leads from frame t to frame t + 1. To read it an encoder may look at frame
t + 1 and at the frames before, nothing later; to draw it a decoder is given what the encoder said,
as a condition, and frame t and the frames before.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from workshop_lib.data.clip import frames_to_video
from workshop_lib.errors import WorkshopError
from workshop_lib.models.latent_config import (
    ConvEncoderConfig,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
    UNetDecoderConfig,
)
from workshop_lib.nn.conv import FrameNorm, ResidualBlock
from workshop_lib.nn.frame_unet import FrameUNet, FrameUNetConfig, displace
from workshop_lib.nn.space_time import SpaceTimeConfig, SpaceTimeTransformer

CHANNELS = 3
FLAT = 8  # channels in which the conv encoder keeps where in the picture something is


def make_encoder(
    config: ConvEncoderConfig | TransformerEncoderConfig, size: int, history: int, out: int
) -> Encoder:
    """The encoder that a config describes, for frames of size x size pixels.

    history: frames up to frame t that it looks back on. out: channels of what it says.
    """
    if isinstance(config, ConvEncoderConfig):
        return ConvEncoder(config, size, history, out)
    return TransformerEncoder(config, size, history, out)


class Encoder(nn.Module):
    """encoder(seen, places (B, n)) to what is said of transitions `places`, float (B, n, out).

    seen: uint8 (B, T, H, W, C), the frames, or their tokens, int64 (B, T, h, w).
    """


class ConvEncoder(Encoder):
    """Reads each transition by itself, from its frame t + 1 and the `history` frames before.

    Before a clip's first frame that frame stands again and again.
    """

    def __init__(self, config: ConvEncoderConfig, size: int, history: int, out: int) -> None:
        super().__init__()
        self.history, view, width = history, config.view or size, config.width
        if not 8 <= view <= size or (size - view) % 2 or view % 8 or width % 4:
            raise WorkshopError(
                f"model.encoder: view {view} must be an even number of pixels less than {size} and "
                f"a multiple of 8, width {width} a multiple of 4"
            )
        self.margin, side = (size - view) // 2, view // 8
        self.first = nn.Conv2d((history + 1) * CHANNELS * 16, width, 3, padding=1)
        # What happens in the middle, where the player is, means something else than at the edge.
        self.place = nn.Parameter(torch.zeros(width, view // 4, view // 4))
        self.fine = ResidualBlock(width, width)
        self.shrink = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)
        coarse = (ResidualBlock(2 * width, 2 * width) for _ in range(config.depth))
        self.coarse = nn.Sequential(*coarse)
        self.norm = FrameNorm(2 * width)
        self.flat = nn.Conv2d(2 * width, FLAT, 1)
        self.out = nn.Sequential(
            nn.Linear(4 * width + FLAT * side**2, 4 * width), nn.SiLU(), nn.Linear(4 * width, out)
        )

    def forward(self, seen: Tensor, places: Tensor) -> Tensor:
        middle = slice(self.margin, seen.shape[2] - self.margin)
        steps = torch.arange(1 - self.history, 2, device=places.device)
        windows = gather_frames(seen[:, :, middle, middle], places[..., None] + steps)
        video = frames_to_video(windows).flatten(0, 1).flatten(1, 2)  # B·n, (k + 1)·C, H, W
        x = self.first(F.pixel_unshuffle(video, 4).contiguous(memory_format=torch.channels_last))
        x = self.shrink(self.fine((x + self.place)[:, None])[:, 0])
        x = F.silu(self.norm(self.coarse(x[:, None])))[:, 0]
        whole = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
        said: Tensor = self.out(torch.cat([whole, self.flat(x).flatten(1)], dim=1))
        return said.unflatten(0, places.shape)


class TransformerEncoder(Encoder):
    """Reads all transitions of a clip at once. Ahead of each frame's patches stands one more
    token, the question; what has become of it in frame t + 1 is the answer for transition t."""

    def __init__(self, config: TransformerEncoderConfig, size: int, history: int, out: int) -> None:
        super().__init__()
        self.config = config
        self.to_dim: nn.Module
        if config.num_tokens:
            grid = config.grid
            self.to_dim = nn.Embedding(config.num_tokens, config.dim)
        else:
            grid = _patches(size, config.patch, "encoder")
            self.to_dim = nn.Linear(CHANNELS * config.patch**2, config.dim)
        self.question = nn.Parameter(torch.randn(config.dim))
        self.transformer = SpaceTimeTransformer(
            SpaceTimeConfig(
                config.dim, config.depth, config.heads, grid, history + 1, extra_tokens=1
            )
        )
        self.out = nn.Linear(config.dim, out)

    def forward(self, seen: Tensor, places: Tensor) -> Tensor:
        if self.config.num_tokens:
            x = self.to_dim(seen.flatten(2))  # B T N D
        else:
            x = self.to_dim(_to_patches(frames_to_video(seen), self.config.patch))
        question = self.question.to(x.dtype).expand(*x.shape[:2], 1, -1)
        answers = self.out(self.transformer(torch.cat([question, x], dim=2))[:, :, 0])
        rows = torch.arange(len(places), device=places.device)[:, None]
        return answers[rows, places + 1]


class UNetDecoder(nn.Module):
    """The last k frames (B, k, C, h, w), made `scale` times smaller, and a condition (B, D) to
    the next frame (B, C, h, w), as small."""

    def __init__(self, config: UNetDecoderConfig, history: int, cond_dim: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.net = FrameUNet(
            FrameUNetConfig(
                frames=history,
                patch=config.patch,
                width=config.width,
                depth=config.depth,
                middle=config.middle,
                cond_dim=cond_dim,
            )
        )

    def forward(self, video: Tensor, cond: Tensor) -> Tensor:
        following: Tensor = self.net(video, cond)
        return following

    def draw(self, video: Tensor, cond: Tensor) -> Tensor:
        """The last k frames (B, k, C, H, W) in full size to the next one, in full size, too.

        What the network says of the small frames holds for the large one: it is moved by as much
        (times scale), and the residual is enlarged. So it stays sharp.
        """
        if self.scale == 1:
            return self(video, cond)
        small = shrink(video, self.scale)
        following, displacement = self.net.parts(small, cond)
        residual = following - displace(small[:, -1], displacement)
        size = video.shape[-2:]
        moved = displace(video[:, -1], self.scale * _enlarge(displacement, size))
        return moved + _enlarge(residual, size)


class TransformerDecoder(nn.Module):
    """Frames (B, T, C, h, w) and the conditions (B, T, D) of the transitions that start at them
    to the T frames that these lead to. It predicts the change of the last frame that it sees.

    from_first: it sees the first frame alone.
    """

    def __init__(
        self,
        config: TransformerDecoderConfig,
        size: int,
        history: int,
        cond_dim: int,
        scale: int,
        from_first: bool,
    ) -> None:
        super().__init__()
        self.config, self.scale, self.from_first = config, scale, from_first
        grid = _patches(size // scale, config.patch, "decoder")
        self.to_dim = nn.Linear(CHANNELS * config.patch**2, config.dim)
        self.transformer = SpaceTimeTransformer(
            SpaceTimeConfig(
                config.dim, config.depth, config.heads, grid, history, cond_dim=cond_dim
            )
        )
        self.to_pixels = nn.Linear(config.dim, CHANNELS * config.patch**2)
        nn.init.zeros_(self.to_pixels.weight)
        nn.init.zeros_(self.to_pixels.bias)

    def forward(self, video: Tensor, cond: Tensor) -> Tensor:
        if self.from_first:
            video = video[:, :1].expand(-1, cond.shape[1], -1, -1, -1)
        x = self.to_dim(_to_patches(video, self.config.patch))
        change = rearrange(
            self.to_pixels(self.transformer(x, cond)),
            "b t (h w) (c p q) -> b t c (h p) (w q)",
            h=video.shape[-2] // self.config.patch,
            p=self.config.patch,
            q=self.config.patch,
        )
        return video + change

    def draw(self, video: Tensor, cond: Tensor) -> Tensor:
        """The same for frames in full size (B, T, C, H, W)."""
        return self._full(self(shrink(video, self.scale), cond), video.shape[-2:])

    def _full(self, video: Tensor, size: torch.Size) -> Tensor:
        if self.scale == 1:
            return video
        return _enlarge(video.flatten(0, 1), size).unflatten(0, video.shape[:2])


def gather_frames(frames: Tensor, when: Tensor) -> Tensor:
    """Frames (B, T, ...) at times int64 (B, ..): (B, .., ...); the first one for times below 0."""
    rows = torch.arange(len(frames), device=frames.device).view(-1, *[1] * (when.ndim - 1))
    return frames[rows, when.clamp_min(0)]


def shrink(video: Tensor, scale: int) -> Tensor:
    """(..., C, H, W) to (..., C, H / scale, W / scale): each pixel the mean of a square."""
    if scale == 1:
        return video
    return F.avg_pool2d(video.flatten(0, -4), scale).unflatten(0, video.shape[:-3])


def small_video(frames: Tensor, scale: int) -> Tensor:
    """uint8 (..., H, W, C) to what models see, float (..., C, H / scale, W / scale) in [-1, 1].

    As `shrink` of frames_to_video, but 14 times quicker: whole numbers are added up first.
    """
    if scale == 1:
        return frames_to_video(frames)
    lead, (H, W, C) = frames.shape[:-3], frames.shape[-3:]
    rows = frames.reshape(-1, H // scale, scale, W * C).sum(dim=2, dtype=torch.int32)
    squares = rows.view(-1, H // scale, W // scale, scale, C).sum(dim=3, dtype=torch.int32)
    video = squares.movedim(-1, -3).float().contiguous().div(127.5 * scale**2).sub(1.0)
    return video.view(*lead, *video.shape[1:])


def _enlarge(maps: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _patches(size: int, patch: int, which: str) -> tuple[int, int]:
    if size % patch:
        raise WorkshopError(
            f"model.{which}.patch: {patch} does not divide frames of {size} pixels as it sees them"
        )
    return size // patch, size // patch


def _to_patches(video: Tensor, patch: int) -> Tensor:
    """(B, T, C, H, W) to (B, T, N, C p p)."""
    return rearrange(video, "b t c (h p) (w q) -> b t (h w) (c p q)", p=patch, q=patch)

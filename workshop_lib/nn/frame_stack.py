"""The last frames as channels, and convolutions over them: what learns quickly on a CPU.

Attention must first find out which tokens are neighbors; a convolution knows. With little compute
it is far ahead; with a GPU's the transformer of nn/space_time.py catches up, and it remembers more
than a few frames.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib.errors import WorkshopError
from workshop_lib.nn.frame_unet import GROUPS, FilmBlock, GlobalLook
from workshop_lib.nn.space_time import SpaceTimeConfig


class RecentFrames:
    """The cache of a FrameStack: the last k frames as they came in, (B, up to k, N, D)."""

    def __init__(self, batch_size: int, kept: int) -> None:
        self.batch_size, self.kept, self.length = batch_size, kept, 0
        self.frames: Tensor | None = None

    def append(self, x: Tensor) -> None:
        """Adds the next T frames, (B, T, N, D), and drops those that no longer count."""
        frames = x if self.frames is None else torch.cat([self.frames, x], dim=1)
        self.frames = frames[:, -self.kept :]
        self.length += x.shape[1]


class FrameStack(nn.Module):
    """Tokens of frames in, tokens of frames out, like a SpaceTimeTransformer whose window is
    k + 1 frames, but by convolutions over the grid: a frame and the k frames before it are its
    channels.

    The first token of a frame is not of the grid: it says what led to the frame. Those of all
    k + 1 frames make the condition that scales and shifts every block (FiLM: Perez et al. 2018),
    and to which the mean and maximum of the map are added between blocks, so that all places agree
    on one motion.
    """

    def __init__(self, config: SpaceTimeConfig) -> None:
        super().__init__()
        if config.extra_tokens != 1:
            raise WorkshopError("a FrameStack wants the action as one token ahead of the grid")
        if config.window < 2 or config.dim % GROUPS:
            raise WorkshopError(
                f"window {config.window} must be 2 or more and dim {config.dim} a multiple of"
                f" {GROUPS} for a body of convolutions"
            )
        self.config, dim = config, config.dim
        self.narrow = nn.Conv2d(dim, dim // 2, 1)  # the stack of frames is wide otherwise
        self.first = nn.Conv2d(config.window * (dim // 2), dim, 3, padding=1)
        self.to_cond = nn.Linear(config.window * dim, dim)
        self.blocks = nn.ModuleList(FilmBlock(dim, dim) for _ in range(config.depth))
        self.looks = nn.ModuleList(GlobalLook(dim, dim) for _ in range(config.depth - 1))
        self.norm = nn.GroupNorm(GROUPS, dim)

    def new_cache(self, batch_size: int) -> RecentFrames:
        """An empty cache for batch_size clips."""
        return RecentFrames(batch_size, self.config.window - 1)

    def forward(
        self,
        x: Tensor,
        cache: RecentFrames | None = None,
        write: bool = True,
        drafts: bool = False,
    ) -> Tensor:
        """x (B, T, N, D) -> (B, T, N, D), normalized at the end; arguments as of a
        SpaceTimeTransformer.

        Before a clip's first frame that frame stands again and again. With drafts, the first half
        of x only serves as the past of the second, and comes out as zeros.
        """
        half = x.shape[1] // 2 if drafts else 0
        new, settled = x[:, half:], x[:, :half] if drafts else x
        line, start = settled, int(drafts)  # in order of time, and how many come before new[:, 0]
        if cache is not None and cache.frames is not None:
            line, start = torch.cat([cache.frames, line], dim=1), start + cache.frames.shape[1]
        if cache is not None and (write or drafts):
            cache.append(settled)
        out = self._convolve(line, new, start)
        return torch.cat([torch.zeros_like(x[:, :half]), out], dim=1) if drafts else out

    def _convolve(self, line: Tensor, new: Tensor, start: int) -> Tensor:
        """New frames (B, T, N, D), each after one more frame of the line, to features alike."""
        frames, back = new.shape[1], self.config.window - 1
        line = torch.cat([line[:, :1].expand(-1, back, -1, -1), line], dim=1)
        actions, pictures = [], []
        picture = self._picture(line[:, :, 1:])
        for j in range(back):
            actions.append(line[:, start + j : start + j + frames, 0])
            pictures.append(picture[:, start + j : start + j + frames])
        actions.append(new[:, :, 0])
        pictures.append(self._picture(new[:, :, 1:]))
        cond = self.to_cond(torch.cat(actions, dim=-1)).flatten(0, 1)
        x = self.first(torch.cat(pictures, dim=2).flatten(0, 1))  # BT D h w
        for i, block in enumerate(self.blocks):
            if i:
                cond = self.looks[i - 1](x, cond)
            x = block(x, cond)
        x = F.silu(self.norm(x)).flatten(2).transpose(1, 2).unflatten(0, (-1, frames))
        return F.pad(x, (0, 0, 1, 0))  # nothing comes out in the action's place

    def _picture(self, tokens: Tensor) -> Tensor:
        """(B, T, h w, D) to narrow maps (B, T, D / 2, h, w)."""
        h, w = self.config.grid
        maps = tokens.transpose(2, 3).unflatten(-1, (h, w)).flatten(0, 1)
        return self.narrow(maps).unflatten(0, tokens.shape[:2])

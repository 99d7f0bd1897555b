"""The architecture of the public Oasis and CoinRun pixel DiT weights, under their names.

Decart and Etched 2024, "Oasis": in each block attention over space and a feed-forward layer, then
attention over past frames and another, and every one of the four has shift, scale and gate of its
own from the block's own projections: a third of all parameters. nn/dit.py does without these.

Names and the order of a projection's rows are those of the checkpoints, so that they load as they
are: models/oasis_weights.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from workshop_lib.errors import WorkshopError
from workshop_lib.nn.attention import Extend, attend
from workshop_lib.nn.cache import TimeCache, causal_mask
from workshop_lib.nn.dit import NoiseEmbedding
from workshop_lib.nn.oasis_block import (
    Conditioner,
    FinalLayer,
    Frequencies,
    OasisAttention,
    OasisBlock,
    PatchEmbedding,
)
from workshop_lib.nn.rotary import Rotary, frequencies, grid_angles, line_angles, rotary
from workshop_lib.nn.space_time import TABLE


@dataclass(frozen=True)
class OasisConfig:
    """size: (H, W) of a frame, in pixels or latents.
    patch: of how many in a square one token is made.
    dim, depth, heads: width D, blocks and attention heads.
    window: W, frames that time attention sees, the present one included.
    bare: the layer for actions is `external_cond` itself, as in the Minecraft weights, and not
        `external_cond.conditioner.0`.
    """

    size: tuple[int, int] = (64, 64)
    patch: int = 8
    dim: int = 160
    depth: int = 5
    heads: int = 8
    window: int = 32
    bare: bool = False
    kind: Literal["oasis"] = "oasis"

    def __post_init__(self) -> None:
        for key in ("patch", "dim", "depth", "heads", "window"):
            if getattr(self, key) < 1:
                raise WorkshopError(f"net.{key} must be 1 or more, got {getattr(self, key)}")
        if self.dim % (4 * self.heads):
            raise WorkshopError(
                f"net.dim {self.dim} must be a multiple of 4 * heads = {4 * self.heads}"
            )
        if any(side % self.patch for side in self.size):
            raise WorkshopError(f"net.size {self.size} must be a multiple of patch {self.patch}")

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w), tokens down and across."""
        return self.size[0] // self.patch, self.size[1] // self.patch

    @property
    def reach(self) -> int:
        """How many frames back a frame's prediction depends on, through all blocks."""
        return (self.window - 1) * self.depth


class OasisDiT(nn.Module):
    """video (B, T, C_in, H, W), labels of its noise (B, T) and actions to maps (B, T, C_out, H, W).

    Actions are int64 (B, T), what led to each frame, -1 for none; or, where there is more than one
    key at a time, float (B, T, A). Untrained, the maps are 0.
    """

    space_cos: Tensor
    space_sin: Tensor
    time_cos: Tensor
    time_sin: Tensor

    def __init__(
        self, config: OasisConfig, channels_in: int, channels_out: int, num_actions: int
    ) -> None:
        super().__init__()
        self.config, self.num_actions = config, num_actions
        dim, patch = config.dim, config.patch
        self.x_embedder = PatchEmbedding(channels_in, dim, patch)
        self.t_embedder = NoiseEmbedding(dim)
        linear = nn.Linear(num_actions, dim)
        self.external_cond = linear if config.bare else Conditioner(linear)
        self.blocks = nn.ModuleList(OasisBlock(dim, config.heads) for _ in range(config.depth))
        self.final_layer = FinalLayer(dim, channels_out * patch**2)
        # Constants, but the public models count them among their parameters.
        pairs = dim // config.heads // 2
        pixel = torch.linspace(1, 128, pairs // 2) * math.pi
        self.spatial_rotary_emb = Frequencies(pixel)
        self.temporal_rotary_emb = Frequencies(frequencies(pairs, 10_000.0).float())
        self._add_factors()
        self._initialize()

    def _add_factors(self) -> None:
        """Rotary factors of a frame's places, (N, 1, 1, d), and of time, (TABLE, 1, 1, 1, d)."""
        rows, columns = (torch.linspace(-1, 1, side) for side in self.config.grid)
        places = grid_angles(rows, columns, self.spatial_rotary_emb.freqs.detach())
        space, time = rotary(places), self._moments(0, TABLE)
        self.register_buffer("space_cos", space.cos[:, None, None], persistent=False)
        self.register_buffer("space_sin", space.sin[:, None, None], persistent=False)
        self.register_buffer("time_cos", time.cos, persistent=False)
        self.register_buffer("time_sin", time.sin, persistent=False)

    def _moments(self, start: int, count: int) -> Rotary:
        speed = self.temporal_rotary_emb.freqs.detach().cpu()
        factors = rotary(line_angles(torch.arange(start, start + count), speed))
        return Rotary(*(factor[:, None, None, None] for factor in factors))

    def _initialize(self) -> None:
        """As DiT, section 3.2: Xavier, and 0 for all that gates or ends."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
                if "adaLN" in name or name == "final_layer.linear":
                    nn.init.zeros_(module.weight)
        nn.init.xavier_uniform_(self.x_embedder.proj.weight.view(self.config.dim, -1))
        nn.init.zeros_(self.x_embedder.proj.bias)  # type: ignore[arg-type]
        for layer in self.t_embedder.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)

    def condition(self, label: Tensor, actions: Tensor) -> Tensor:
        """(B, T) and (B, T) or (B, T, A) to (B, T, D)."""
        if actions.ndim == 2:  # none is all zeros
            none = actions < 0
            actions = F.one_hot(actions.clamp(min=0), self.num_actions).masked_fill(
                none[..., None], 0
            )
        noise = self.t_embedder(label)
        return noise + self.external_cond(actions.to(noise.dtype))

    def forward(
        self,
        video: Tensor,
        label: Tensor,
        led_by: Tensor,
        cache: TimeCache | None = None,
        write: bool = True,
        drafts: bool = False,
    ) -> Tensor:
        """cache, write: as in SpaceTimeTransformer. There are no drafts here.

        Raises WorkshopError for frames of another size.
        """
        config, count = self.config, video.shape[1]
        if tuple(video.shape[-2:]) != tuple(config.size):
            raise WorkshopError(
                f"frames of {tuple(video.shape[-2:])}: this model has net.size {config.size}"
            )
        if drafts:
            raise WorkshopError("training: 'drafts' needs net.kind dit; use 'independent'")
        start, past = (0, 0) if cache is None else (cache.length, cache.past)
        causal = 1 < count <= config.window and past == 0
        mask = None
        if count > 1 and not causal:
            mask = causal_mask(count, past, config.window, video.device)
        time = partial(self._time_attention, mask=mask, causal=causal)
        space_rotary, time_rotary = self._rotary(start, count)
        cond = F.silu(self.condition(label, led_by))[:, :, None]  # B T 1 D
        x = self.x_embedder(video)
        for i, block in enumerate(self.blocks):
            extend = None if cache is None else partial(cache.extend, i, write=write)
            x = block(x, cond, space_rotary, partial(time, rotary=time_rotary, extend=extend))
        if cache is not None and write:
            cache.advance(count)
        x = self.final_layer(x, cond)
        h, _ = config.grid
        return rearrange(
            x, "b t (h w) (p q c) -> b t c (h p) (w q)", h=h, p=config.patch, q=config.patch
        )

    def _rotary(self, start: int, count: int) -> tuple[Rotary, Rotary]:
        """Factors (N, 1, 1, d) of a frame's places, and (count, 1, 1, 1, d) of the frames."""
        space = Rotary(self.space_cos, self.space_sin)
        end = start + count
        if end <= TABLE:
            return space, Rotary(self.time_cos[start:end], self.time_sin[start:end])
        moved = (factor.to(self.space_cos.device) for factor in self._moments(start, count))
        return space, Rotary(*moved)

    @staticmethod
    def _time_attention(
        attention: OasisAttention,
        x: Tensor,
        rotary: Rotary,
        mask: Tensor | None,
        causal: bool,
        extend: Extend | None,
    ) -> Tensor:
        """(B, T, N, D) -> (B, T, N, D): each place looks at itself in the past."""
        # (B, T, N, heads, d) -> (B, N * heads, T, d): every place and head attends on its own.
        q, k, v = (p.flatten(2, 3).transpose(1, 2) for p in attention.project(x, rotary))
        k, v = (k, v) if extend is None else extend(k, v)
        out = attend(q, k, v, mask, causal).transpose(1, 2)
        return attention.to_out(out.reshape(x.shape))

    def new_cache(self, batch_size: int) -> TimeCache:
        config, weight = self.config, self.temporal_rotary_emb.freqs
        autocast = torch.is_autocast_enabled(weight.device.type)
        dtype = torch.get_autocast_dtype(weight.device.type) if autocast else weight.dtype
        places, head_dim = math.prod(config.grid), config.dim // config.heads
        shape = config.depth, batch_size, places * config.heads, config.window, head_dim
        return TimeCache(*shape, weight.device, dtype)

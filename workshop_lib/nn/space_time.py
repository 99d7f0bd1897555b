"""The one transformer that tokenizers, latent actions, dynamics and denoisers share.

Each block looks around within the frame, then back in time, then thinks: spatial attention,
causal temporal attention, feed-forward, each on a normalized copy that is added back (Bruce et
al. 2024, "Genie", section 2.1: attention over N tokens and over T frames instead of over N x T).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib.errors import WorkshopError
from workshop_lib.nn.attention import Attention, TimeAttention, newest, no_past
from workshop_lib.nn.cache import TimeCache, causal_mask, draft_mask
from workshop_lib.nn.feed_forward import FeedForward
from workshop_lib.nn.rotary import Rotary, frequencies, grid_angles, line_angles, rotary

SPACE_BASE = 100.0  # few positions a side, so that slow pairs still tell near from far
TIME_BASE = 10_000.0
TABLE = 4096  # frames whose factors are kept; later ones are computed as they come


@dataclass(frozen=True)
class SpaceTimeConfig:
    """Shape of a SpaceTimeTransformer.

    dim: D, a multiple of 4 * heads (half of a head's channel pairs turn with the row).
    depth: blocks.
    heads: of each attention.
    grid: (h, w), tokens per frame down and across.
    window: W, frames that time attention sees, the present one included.
    cond_dim: channels of the conditioning; 0 for none.
    ff_mult: hidden width of the feed-forward in units of dim, rounded to a multiple of 32.
    qk_norm: normalize queries and keys.
    extra_tokens: tokens per frame ahead of the grid that have no place in it, such as an action.

    Raises WorkshopError, naming the key, for values that do not fit together.
    """

    dim: int
    depth: int
    heads: int
    grid: tuple[int, int]
    window: int = 16
    cond_dim: int = 0
    ff_mult: float = 8 / 3
    qk_norm: bool = True
    extra_tokens: int = 0

    def __post_init__(self) -> None:
        for key in ("dim", "depth", "heads", "window", "cond_dim", "extra_tokens"):
            minimum = 0 if key in ("cond_dim", "extra_tokens") else 1
            if getattr(self, key) < minimum:
                raise WorkshopError(f"{key}: {getattr(self, key)} is less than {minimum}")
        if self.dim % (4 * self.heads):
            raise WorkshopError(
                f"dim: {self.dim} is no multiple of 4 * heads = {4 * self.heads},"
                " which two-dimensional rotary positions need"
            )
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise WorkshopError(f"grid: {self.grid} is not (rows, columns), each 1 or more")
        if self.ff_mult <= 0:
            raise WorkshopError(f"ff_mult: {self.ff_mult} is not above 0")

    @property
    def tokens(self) -> int:
        """N, tokens per frame."""
        return self.extra_tokens + self.grid[0] * self.grid[1]


class Block(nn.Module):
    """Spatial attention, causal temporal attention and feed-forward, each pre-normed."""

    def __init__(self, config: SpaceTimeConfig) -> None:
        super().__init__()
        dim, conditioned = config.dim, config.cond_dim > 0
        hidden = max(32, 32 * round(dim * config.ff_mult / 32))
        self.space = Attention(dim, config.heads, config.qk_norm)
        self.time = TimeAttention(dim, config.heads, config.qk_norm)
        self.feed_forward = FeedForward(dim, hidden)
        # Conditioned, shift and scale come from outside and replace the norms' own.
        self.norms = nn.ModuleList(
            nn.LayerNorm(dim, elementwise_affine=not conditioned) for _ in range(3)
        )
        # This block's own (shift, scale, gate) of its three layers, added to the shared ones.
        self.modulation = nn.Parameter(torch.zeros(9, dim)) if conditioned else None

    def forward(
        self, x: Tensor, shared: Tensor | None, space_rotary: Rotary, time: dict[str, Any]
    ) -> Tensor:
        """x (B, T, N, D), shared modulation (B or 1, T or 1, N or 1, 9, D) or None -> like x, less
        the frames that are silent in time attention, whose arguments `time` are."""
        layers: tuple[Any, ...] = (
            partial(self.space, rotary=space_rotary),
            partial(self.time, **time),
            self.feed_forward,
        )
        if shared is None or self.modulation is None:
            for norm, layer in zip(self.norms, layers, strict=True):
                added = layer(norm(x))
                x = newest(x, added) + added
            return x
        parts = (shared + self.modulation).unbind(-2)
        for i, (norm, layer) in enumerate(zip(self.norms, layers, strict=True)):
            shift, scale, gate = (newest(part, x) for part in parts[3 * i : 3 * i + 3])
            added = layer(torch.addcmul(shift, norm(x), 1 + scale))
            x = torch.addcmul(newest(x, added), newest(gate, added), added)
        return x


class SpaceTimeTransformer(nn.Module):
    """Tokens of frames in, tokens of frames out; the future never influences the past.

    A frame looks back at most W - 1 frames, in every layer. Fed with a cache, frame by frame or
    in chunks, it computes exactly what it would from the whole sequence, however long: the same
    band holds in both. (Through several layers information reaches back further, up to
    depth * (W - 1) frames. Only dropping old frames and starting again would differ.)

    Conditioning is adaLN-zero (Peebles and Xie 2023, "DiT", section 3.2), with the projection
    shared by all blocks and a table of biases for each (Chen et al. 2023, "PixArt-alpha",
    section 2.3, adaLN-single). It starts at zero, so that every block starts as the identity.
    """

    # Constants, float32: space (N, 1, 1, d) and time (TABLE, 1, 1, 1, d).
    space_cos: Tensor
    space_sin: Tensor
    time_cos: Tensor
    time_sin: Tensor

    def __init__(self, config: SpaceTimeConfig) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, elementwise_affine=config.cond_dim == 0)
        if config.cond_dim:
            self.to_modulation = nn.Linear(config.cond_dim, 9 * config.dim, bias=False)
            self.to_last_modulation = nn.Linear(config.cond_dim, 2 * config.dim)
        self._add_rotary()
        self._initialize()

    def _add_rotary(self) -> None:
        config, pairs = self.config, self.config.dim // self.config.heads // 2
        h, w = config.grid
        places = grid_angles(torch.arange(h), torch.arange(w), frequencies(pairs // 2, SPACE_BASE))
        # Tokens outside the grid are not turned at all.
        places = torch.cat([torch.zeros(config.extra_tokens, pairs), places])
        space, time = rotary(places), self._time_factors(0, TABLE)
        self.register_buffer("space_cos", space.cos[:, None, None], persistent=False)
        self.register_buffer("space_sin", space.sin[:, None, None], persistent=False)
        self.register_buffer("time_cos", time.cos, persistent=False)
        self.register_buffer("time_sin", time.sin, persistent=False)

    def _time_factors(self, start: int, frames: int) -> Rotary:
        """Factors (frames, 1, 1, 1, d) for the frames from `start` on, on the CPU."""
        pairs = self.config.dim // self.config.heads // 2
        positions = torch.arange(start, start + frames)
        factors = rotary(line_angles(positions, frequencies(pairs, TIME_BASE)))
        return Rotary(*(factor[:, None, None, None] for factor in factors))

    def _initialize(self) -> None:
        """Each linear layer keeps the size of its input; what is added to x starts small.

        Without gates that start at zero, the last layer of each branch is divided by the square
        root of the number of branches (Radford et al. 2019, "GPT-2", section 2.3), so that the
        depth of the model does not show in the size of what comes out.
        """
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.config.cond_dim:
            nn.init.zeros_(self.to_modulation.weight)
            nn.init.zeros_(self.to_last_modulation.weight)
            return
        for module in self.modules():
            if isinstance(module, Attention | FeedForward):
                module.to_out.weight.data *= (3 * self.config.depth) ** -0.5

    def new_cache(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> TimeCache:
        """An empty cache for batch_size clips; by default where the model is and in its type,
        or in that of autocast where it is on."""
        weight = next(self.parameters())
        device = torch.device(device or weight.device)
        if dtype is None:
            autocast = torch.is_autocast_enabled(device.type)
            dtype = torch.get_autocast_dtype(device.type) if autocast else weight.dtype
        return TimeCache(*self._cache_shape(batch_size), device, dtype)

    def _cache_shape(self, batch_size: int) -> tuple[int, int, int, int, int]:
        config = self.config
        heads, head_dim = config.tokens * config.heads, config.dim // config.heads
        return config.depth, batch_size, heads, config.window, head_dim

    def forward(
        self,
        x: Tensor,
        cond: Tensor | None = None,
        cache: TimeCache | None = None,
        write: bool = True,
        drafts: bool = False,
    ) -> Tensor:
        """x (B, T, N, D) -> (B, T, N, D), normalized at the end: a linear head fits.

        cond: (B, T, cond_dim), the same for a whole frame, or (B, T, N, cond_dim); any of its
            axes but the last may be 1. Wanted if and only if the config has a cond_dim.
        cache: x holds the next T frames after those in the cache, and sees them as its past.
        write: keep the new frames in the cache. Without, they see the past and themselves and
            leave nothing behind: for steps that look at a frame which is not settled yet.
        drafts: x holds T settled frames and then T drafts, each of the frame after the settled
            one of its number. A draft sees the settled frames before it and itself, exactly what
            it would see in a peek (write=False) at its time: play at all T moments in one pass.
            With a cache, x holds one of each, and it keeps the settled. Those come out as zeros.

        Raises WorkshopError for shapes that do not fit the config, or a cache with gradients on.
        """
        self._check(x, cond, cache, drafts)
        frames, window = x.shape[1], self.config.window
        start, past = (0, 0) if cache is None else (cache.length, cache.past)
        # One frame may look at all that it is given, so it needs no mask.
        causal = 1 < frames <= window and past == 0 and not drafts
        mask = None
        if drafts and cache is None:
            mask = draft_mask(frames // 2, window, x.device)
        elif frames > 1 and not causal and not drafts:
            mask = causal_mask(frames, past, window, x.device)
        rotary_of = self._draft_rotary if drafts else self._time_rotary
        time = {"rotary": rotary_of(start, frames, x.device), "mask": mask, "causal": causal}
        space_rotary, settled = Rotary(self.space_cos, self.space_sin), frames // 2 * drafts
        shared, last = self._modulation(cond)
        # A draft has its turn after the settled frame: its keys take a place that this still needs.
        caches = [] if cache is None else [cache, cache.ahead(1)] if drafts else [cache]
        for i, block in enumerate(self.blocks):
            extends: list[Any] = [partial(seen.extend, i, write=write) for seen in caches]
            # What the last block would make of settled frames, no draft sees.
            silent = settled if i == len(self.blocks) - 1 else 0
            how = {**time, "extends": extends or [no_past], "silent": silent}
            x = block(x, shared, space_rotary, how)
        if cache is not None and (write or drafts):
            cache.advance(1 if drafts else frames)
        x = self.norm(x)
        if last is not None:
            x = torch.addcmul(newest(last[0], x), x, 1 + newest(last[1], x))
        return F.pad(x, (0, 0, 0, 0, settled, 0)) if settled else x

    def _time_rotary(self, start: int, frames: int, device: torch.device) -> Rotary:
        if start + frames <= TABLE:
            return Rotary(self.time_cos[start:][:frames], self.time_sin[start:][:frames])
        return Rotary(*(factor.to(device) for factor in self._time_factors(start, frames)))

    def _draft_rotary(self, start: int, frames: int, device: torch.device) -> Rotary:
        """Factors of frames / 2 settled frames, and of as many drafts, each a frame later."""
        cos, sin = self._time_rotary(start, frames // 2 + 1, device)
        return Rotary(torch.cat([cos[:-1], cos[1:]]), torch.cat([sin[:-1], sin[1:]]))

    def _modulation(self, cond: Tensor | None) -> tuple[Tensor | None, tuple[Tensor, ...] | None]:
        """Shift, scale and gate (B, T, N, 9, D) for all blocks, shift and scale for the end."""
        if cond is None:
            return None, None
        cond = F.silu(cond if cond.ndim == 4 else cond[:, :, None])
        shared = self.to_modulation(cond).unflatten(-1, (9, -1))
        return shared, self.to_last_modulation(cond).chunk(2, dim=-1)

    def _check(self, x: Tensor, cond: Tensor | None, cache: TimeCache | None, drafts: bool) -> None:
        config = self.config
        if x.ndim != 4 or x.shape[2:] != (config.tokens, config.dim) or x.shape[1] == 0:
            raise WorkshopError(
                f"x: {tuple(x.shape)} should be (B, T, {config.tokens}, {config.dim}):"
                " clips, frames, tokens per frame, channels"
            )
        if drafts and (x.shape[1] % 2 or (cache is not None and x.shape[1] > 2)):
            raise WorkshopError(
                f"drafts: give as many as settled frames, with a cache one, not {x.shape[1]} in all"
            )
        if (cond is not None) != (config.cond_dim > 0):
            raise WorkshopError(
                f"cond: {'missing' if cond is None else 'given'}, but cond_dim is {config.cond_dim}"
            )
        if cond is not None:
            whole = (*x.shape[:3], config.cond_dim)
            shape = cond.shape if cond.ndim == 4 else (*cond.shape[:2], 1, *cond.shape[2:])
            axes = zip(shape[:3], whole[:3], strict=True)
            if shape[3:] != whole[3:] or any(size not in (1, wanted) for size, wanted in axes):
                raise WorkshopError(
                    f"cond: {tuple(cond.shape)} should be {(*whole[:2], whole[3])} or {whole}"
                )
        if cache is not None:
            cache.check(self._cache_shape(x.shape[0]))

"""The blocks of the public Oasis architecture (nn/oasis.py), under the names of its weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib.nn.attention import attend
from workshop_lib.nn.linear import Linear
from workshop_lib.nn.rotary import Rotary, rotate


class OasisAttention(nn.Module):
    """The two projections of an attention; rows of to_qkv go by (query | key | value, head)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = Linear(dim, 3 * dim, bias=False)
        self.to_out = Linear(dim, dim)

    def project(self, x: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, T, N, D) -> queries, keys and values, each (B, T, N, heads, d), the former two
        turned; rotary: factors that broadcast to (..., 2, heads, d)."""
        qkv = self.to_qkv(x).unflatten(-1, (3, self.heads, -1))
        q, k = rotate(qkv[..., :2, :, :], rotary).unbind(-3)
        return q, k, qkv[..., 2, :, :]

    def forward(self, x: Tensor, rotary: Rotary) -> Tensor:
        """(B, T, N, D) -> (B, T, N, D): each place looks at all of its frame."""
        q, k, v = (p.flatten(0, 1).transpose(1, 2) for p in self.project(x, rotary))
        out = attend(q, k, v, None, causal=False).transpose(1, 2)  # (B T) N heads d
        return self.to_out(out.reshape(x.shape))


class OasisBlock(nn.Module):
    """Space (s) and then time (t); each attention and feed-forward with shift, scale and gate."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.s_attn, self.t_attn = OasisAttention(dim, heads), OasisAttention(dim, heads)
        self.s_mlp, self.t_mlp = Mlp(dim), Mlp(dim)
        self.s_adaLN_modulation = nn.Sequential(nn.Identity(), nn.Linear(dim, 6 * dim))
        self.t_adaLN_modulation = nn.Sequential(nn.Identity(), nn.Linear(dim, 6 * dim))

    def forward(
        self, x: Tensor, cond: Tensor, rotary: Rotary, time: Callable[..., Tensor]
    ) -> Tensor:
        """x (B, T, N, D) and SiLU'd condition (B, T, 1, D) -> (B, T, N, D)."""
        parts = self.s_adaLN_modulation(cond).chunk(6, dim=-1)
        x = self._add(x, partial(self.s_attn, rotary=rotary), parts[:3])
        x = self._add(x, self.s_mlp, parts[3:])
        parts = self.t_adaLN_modulation(cond).chunk(6, dim=-1)
        x = self._add(x, partial(time, self.t_attn), parts[:3])
        return self._add(x, self.t_mlp, parts[3:])

    def _add(
        self, x: Tensor, layer: Callable[[Tensor], Tensor], parts: tuple[Tensor, ...]
    ) -> Tensor:
        shift, scale, gate = parts
        return torch.addcmul(x, gate, layer(torch.addcmul(shift, self.norm(x), 1 + scale)))


class Mlp(nn.Module):
    """GELU between two layers, four times as wide inside."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = Linear(dim, 4 * dim), Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class FinalLayer(nn.Module):
    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False, eps=1e-6)
        self.linear = Linear(dim, channels)
        self.adaLN_modulation = nn.Sequential(nn.Identity(), nn.Linear(dim, 2 * dim))

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(cond).chunk(2, dim=-1)
        return self.linear(torch.addcmul(shift, self.norm(x), 1 + scale))


class PatchEmbedding(nn.Module):
    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, stride=patch)

    def forward(self, video: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, T, N, D)."""
        tokens = self.proj(video.flatten(0, 1)).flatten(2).transpose(1, 2)
        return tokens.unflatten(0, video.shape[:2])


class Conditioner(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.conditioner = nn.Sequential(linear)

    def forward(self, actions: Tensor) -> Tensor:
        return self.conditioner(actions)


class Frequencies(nn.Module):
    """Constants that are counted as parameters, but never trained."""

    def __init__(self, freqs: Tensor) -> None:
        super().__init__()
        self.freqs = nn.Parameter(freqs, requires_grad=False)

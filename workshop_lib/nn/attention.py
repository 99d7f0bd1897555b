"""Multi-head attention with fused projections, qk-norm and rotary positions, over space or time.

Attention: Vaswani et al. 2017, section 3.2. Activations stay in one layout, (B, T, N, D),
everywhere: the views below only say which axis the attention runs along, and copy nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib.errors import WorkshopError
from workshop_lib.nn.linear import Linear
from workshop_lib.nn.rotary import Rotary, rotate

# New keys and values in, those of the visible past and the new ones out: TimeCache.extend.
Extend = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Attention(nn.Module):
    """Self-attention along the last axis but one: tokens of a frame look at each other.

    With qk_norm, each head's query and key is divided by its root mean square and scaled by
    learned factors before the dot product, so that the logits cannot grow without bound
    (Dehghani et al. 2023, "Scaling ViT to 22 billion parameters", section 2, equation 2).

    Args:
        dim: D, a multiple of heads.
        heads: each has d = D / heads channels.

    The rows of to_qkv.weight go by (head, query | key | value, channel). So one axis can stand
    for tokens x heads, which lets time attention view the projections instead of copying them.
    """

    def __init__(self, dim: int, heads: int, qk_norm: bool = True) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise WorkshopError(f"heads: {dim} channels cannot be shared among {heads} heads")
        self.heads, self.head_dim = heads, dim // heads
        self.to_qkv = Linear(dim, 3 * dim, bias=False)
        self.to_out = Linear(dim, dim)
        self.qk_scale = nn.Parameter(torch.ones(2, self.head_dim)) if qk_norm else None

    def project(self, x: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor, Tensor]:
        """x (..., D) -> queries, keys and values, each (..., heads, d).

        rotary: factors that broadcast to (..., heads, 2, d), queries and keys side by side.
        """
        qkv = self.to_qkv(x).unflatten(-1, (self.heads, 3, self.head_dim))
        qk, values = qkv[..., :2, :], qkv[..., 2, :]
        if self.qk_scale is not None:
            qk = F.rms_norm(qk, (self.head_dim,), eps=1e-6) * self.qk_scale
        if rotary is not None:
            qk = rotate(qk, rotary)
        return qk[..., 0, :], qk[..., 1, :], values

    def forward(
        self,
        x: Tensor,
        rotary: Rotary | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """x (..., L, D) -> the same shape.

        rotary: factors (L, 1, 1, d). mask: bool (L, L), row looks at column where True. causal:
        no token looks at a later one; not together with a mask.
        """
        q, k, v = (part.flatten(0, -4).transpose(1, 2) for part in self.project(x, rotary))
        out = attend(q, k, v, mask, causal)  # (batch, heads, L, d)
        return self.to_out(out.transpose(1, 2).reshape(x.shape))


def no_past(keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The new keys and values are all that there is."""
    return keys, values


class TimeAttention(Attention):
    """Self-attention along T: each token looks at the same place in other frames."""

    def forward(
        self,
        x: Tensor,
        rotary: Rotary | None = None,
        mask: Tensor | None = None,
        causal: bool = False,
        extends: Sequence[Extend] = (no_past,),
        silent: int = 0,
    ) -> Tensor:
        """x (B, T, N, D) -> (B, T - silent, N, D).

        rotary: factors (T, 1, 1, 1, d). mask: bool (T, frames to look at). extends: adds the past;
        several share the frames out evenly, and each has its turn when the one before is done.
        silent: the first frames are there for the others to look at; nothing comes out for them.
        """
        # (B, T, N, heads, d) -> (B, N * heads, T, d): every place and head attends on its own.
        qkv = [part.flatten(2, 3).transpose(1, 2) for part in self.project(x, rotary)]
        several = len(extends) > 1
        shares = [part.chunk(len(extends), dim=2) if several else (part,) for part in qkv]
        mask = mask if mask is None else mask[silent:]
        out, shape = [], x[:, silent:].shape
        for extend, q, k, v in zip(extends, *shares, strict=True):
            keys, values = extend(k, v)
            q, silent = q[:, :, silent:], max(silent - q.shape[2], 0)
            if q.shape[2]:
                out.append(attend(q, keys, values, mask, causal).to(v.dtype).transpose(1, 2))
        return self.to_out((torch.cat(out, dim=1) if len(out) > 1 else out[0]).reshape(shape))


def newest(x: Tensor, like: Tensor) -> Tensor:
    """The last frames of x (B, T or 1, ...): as many as there are in `like`, or its one."""
    return x if x.shape[1] <= like.shape[1] else x[:, -like.shape[1] :]


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, Vaswani et al. 2017, equation 1, in the type of the values.

    q (batch, heads, L, d), k and v (batch, heads, S, d) -> (batch, heads, L, d).
    """
    q, k = q.to(v.dtype), k.to(v.dtype)
    if q.shape[2] == 1 and mask is None and q.device.type == "cpu":
        # A frame on its own: thousands of single queries, where the fused kernel takes up to twice
        # the time of two batched products.
        q, k = q.flatten(0, 1) * q.shape[-1] ** -0.5, k.flatten(0, 1)
        weights = torch.bmm(q, k.transpose(1, 2)).softmax(-1)
        return torch.bmm(weights.to(v.dtype), v.flatten(0, 1)).unflatten(0, v.shape[:2])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)

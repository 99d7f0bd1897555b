"""Attention against a plain reference, over space and over time, and what qk-norm buys."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from workshop_lib.errors import WorkshopError
from workshop_lib.nn.attention import Attention, TimeAttention
from workshop_lib.nn.cache import TimeCache, causal_mask
from workshop_lib.nn.rotary import Rotary, frequencies, line_angles, rotary, rotate


def factors(length: int, head_dim: int, shift: int = 0) -> Rotary:
    return rotary(line_angles(torch.arange(length) + shift, frequencies(head_dim // 2, 100.0)))


def reference(layer: Attention, x: Tensor, turns: Rotary | None, mask: Tensor) -> Tensor:
    """One sequence (L, D), one head after the other, straight from the paper's equations."""
    heads = []
    for weights in layer.to_qkv.weight.chunk(layer.heads):
        q, k, v = (x @ part.T for part in weights.chunk(3))
        if layer.qk_scale is not None:
            q = q / q.square().mean(-1, keepdim=True).add(1e-6).sqrt() * layer.qk_scale[0]
            k = k / k.square().mean(-1, keepdim=True).add(1e-6).sqrt() * layer.qk_scale[1]
        if turns is not None:
            q, k = rotate(q, turns), rotate(k, turns)
        logits = (q @ k.T / layer.head_dim**0.5).masked_fill(~mask, -torch.inf)
        heads.append(logits.softmax(-1) @ v)
    return layer.to_out(torch.cat(heads, -1))


@pytest.mark.parametrize("qk_norm", [True, False])
@pytest.mark.parametrize("turned", [True, False])
def test_attention_is_the_textbook_one(qk_norm: bool, turned: bool) -> None:
    layer, x = Attention(24, 3, qk_norm), torch.randn(2, 3, 5, 24)
    if layer.qk_scale is not None:
        torch.nn.init.uniform_(layer.qk_scale, 0.5, 2)
    turns = factors(5, 8) if turned else None
    wide = None if turns is None else Rotary(*(factor[:, None, None] for factor in turns))
    everywhere = torch.ones(5, 5, dtype=torch.bool)
    mask = torch.rand(5, 5) < 0.5
    mask.fill_diagonal_(True)
    for b in range(2):
        for t in range(3):
            one = x[b, t]
            for done, seen in [
                (layer(x, wide), everywhere),
                (layer(x, wide, causal=True), everywhere.tril()),
                (layer(x, wide, mask=mask), mask),
            ]:
                torch.testing.assert_close(done[b, t], reference(layer, one, turns, seen))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_time_attention_looks_at_the_same_place_in_other_frames(batch_size: int) -> None:
    layer, x = TimeAttention(24, 3), torch.randn(batch_size, 6, 4, 24)
    turns = factors(6, 8)
    wide = Rotary(*(factor[:, None, None, None] for factor in turns))
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    band = causal_mask(6, 0, 3)
    assert band.int().tolist()[4] == [0, 0, 1, 1, 1, 0]
    for b in range(batch_size):
        for n in range(4):
            for done, seen in [
                (layer(x, wide, causal=True), causal),
                (layer(x, wide, mask=band), band),
            ]:
                expected = reference(layer, x[b, :, n], turns, seen)
                torch.testing.assert_close(done[b, :, n], expected)


def test_shifting_every_position_changes_nothing() -> None:
    layer, x = Attention(24, 3), torch.randn(2, 5, 24)
    here, there = (
        layer(x, Rotary(*(factor[:, None, None] for factor in factors(5, 8, shift))))
        for shift in (0, 1234)
    )
    torch.testing.assert_close(there, here, atol=1e-5, rtol=1e-5)


def test_qk_norm_keeps_growing_weights_from_sharpening_attention() -> None:
    """Without it, weights 100 times as large turn attention into picking one token."""
    x = torch.randn(4, 16, 24)
    changes = []
    for qk_norm in (True, False):
        layer = Attention(24, 3, qk_norm)
        with torch.no_grad():
            before = layer(x)
            layer.to_qkv.weight.unflatten(0, (3, 3, 8))[:, :2] *= 100
            changes.append(float((layer(x) - before).abs().max()))
    assert changes[0] < 1e-3 < 0.1 < changes[1]


def test_a_lone_query_takes_the_quick_way_to_the_same_result() -> None:
    layer, x = TimeAttention(24, 3), torch.randn(2, 6, 4, 24)
    cache = TimeCache(1, 2, 4 * 3, window=6, head_dim=8)
    with torch.no_grad():
        whole = layer(x, mask=causal_mask(6, 0, 6))
        for t in range(6):
            one = layer(x[:, t : t + 1], extends=[partial(cache.extend, 0, write=True)])
            cache.advance(1)
            torch.testing.assert_close(one, whole[:, t : t + 1])


def test_channels_must_share_out() -> None:
    with pytest.raises(WorkshopError, match="heads: 30 channels"):
        Attention(30, 4)

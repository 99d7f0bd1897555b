"""The ring of past keys and values: cached equals full, however it is fed, branched or typed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.nn.test_space_time import COND, clips, transformer
from workshop_lib.errors import WorkshopError
from workshop_lib.nn import space_time
from workshop_lib.nn.cache import TimeCache
from workshop_lib.nn.space_time import SpaceTimeTransformer


def feed(
    model: SpaceTimeTransformer, inputs: list[Tensor], chunks: list[int], peeks: int = 0
) -> Tensor:
    """Outputs for all frames, fed to a new cache in chunks, each after some peeks at noise."""
    cache, outputs, start = model.new_cache(len(inputs[0])), [], 0
    for frames in chunks:
        new = [part[:, start : start + frames] for part in inputs]
        for _ in range(peeks):
            model(*[torch.randn_like(part) for part in new], cache=cache, write=False)
        if peeks:
            outputs.append(model(*new, cache=cache, write=False))
            assert torch.equal(outputs.pop(), model(*new, cache=cache.clone()))
        outputs.append(model(*new, cache=cache))
        start += frames
        assert cache.length == start
    return torch.cat(outputs, dim=1)


@pytest.mark.parametrize("cond_dim", [0, COND])
@pytest.mark.parametrize("extra_tokens", [0, 2])
@pytest.mark.parametrize(
    ("window", "chunks"),
    [
        (8, [8]),
        (8, [1] * 8),
        (8, [3, 1, 4]),
        # Past the window: round the ring, singly, in chunks that wrap, and in longer ones.
        (5, [1] * 17),
        (5, [4, 1, 3, 5, 1, 2, 1]),
        (5, [7, 9, 1]),
        (1, [1, 3, 2]),
    ],
)
@torch.inference_mode()
def test_cached_equals_full(
    window: int, chunks: list[int], extra_tokens: int, cond_dim: int
) -> None:
    """At any length and depth: each layer's band is the same in both."""
    model = transformer(window, cond_dim=cond_dim, extra_tokens=extra_tokens)
    inputs = clips(model, sum(chunks))
    full = model(*inputs)
    for peeks in (0, 3):
        torch.testing.assert_close(feed(model, inputs, chunks, peeks), full, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_one_block_forgets_what_left_the_window() -> None:
    """Far into a long session, frame 300 equals a fresh start on the last W frames."""
    model = transformer(window=4, depth=1, cond_dim=COND)
    inputs = clips(model, 300)
    late = feed(model, inputs, [1] * 300)[:, -1]
    fresh = model(*[part[:, -4:] for part in inputs])[:, -1]
    torch.testing.assert_close(late, fresh, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_play_goes_on_past_the_table_of_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Factors from the table and those computed later are the same rotation."""
    model = transformer(window=4)
    (x,) = clips(model, 9)
    full = model(x)
    monkeypatch.setattr(space_time, "TABLE", 5)
    for chunks in ([1] * 9, [3, 4, 2], [9]):
        torch.testing.assert_close(feed(model, [x], chunks), full, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_one_past_branches_into_independent_futures() -> None:
    model = transformer(window=4)
    (x,) = clips(model, 9)
    cache = model.new_cache(2)
    model(x[:, :6], cache=cache)
    branches = cache.select([1, 0, 1])
    futures = torch.randn(3, 3, 6, 32)
    branched = torch.cat([model(futures[:, t : t + 1], cache=branches) for t in range(3)], dim=1)
    for i, row in enumerate([1, 0, 1]):
        alone = model(torch.cat([x[row, :6], futures[i]])[None])[0, 6:]
        torch.testing.assert_close(branched[i], alone, atol=1e-4, rtol=0)
    # The original went nowhere meanwhile, and goes on as if no branch had been.
    going_on = model(x[:, 6:], cache=cache)
    torch.testing.assert_close(going_on, model(x)[:, 6:], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_a_clone_goes_its_own_way() -> None:
    model = transformer(window=4)
    (x,) = clips(model, 8)
    cache = model.new_cache(2)
    model(x[:, :5], cache=cache)
    clone = cache.clone()
    model(torch.randn(2, 6, 6, 32), cache=clone)
    assert (clone.length, cache.length) == (11, 5)
    torch.testing.assert_close(model(x[:, 5:], cache=cache), model(x)[:, 5:], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_reset_forgets_everything() -> None:
    model = transformer(window=4)
    (x,) = clips(model, 7)
    cache = model.new_cache(2)
    model(100 * torch.randn(2, 6, 6, 32), cache=cache)
    cache.reset()
    torch.testing.assert_close(model(x, cache=cache), model(x), atol=1e-4, rtol=0)


def test_inference_mode_and_no_grad_may_share_a_cache() -> None:
    model = transformer(window=4)
    (x,) = clips(model, 8)
    with torch.inference_mode():
        cache = model.new_cache(2)
        parts = [model(x[:, :3], cache=cache).clone()]
        cache = cache.clone().select([0, 1])
    with torch.no_grad():
        parts.append(model(x[:, 3:5], cache=cache))
    with torch.inference_mode():
        parts.append(model(x[:, 5:], cache=cache))
        torch.testing.assert_close(torch.cat(parts, 1), model(x), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_a_peek_costs_one_frame() -> None:
    """Multiplications counted, not seconds: a 16-frame window costs 16 times one cached frame."""
    model = transformer(window=16, cond_dim=COND)
    x, cond = clips(model, 16)
    cache = model.new_cache(2)
    model(x[:, :15], cond[:, :15], cache=cache)
    with FlopCounterMode(display=False) as whole:
        model(x, cond)
    with FlopCounterMode(display=False) as single:
        model(x[:, 15:], cond[:, 15:], cache=cache, write=False)
    assert whole.get_total_flops() / single.get_total_flops() > 14


@torch.inference_mode()
def test_bfloat16_autocast_stays_close() -> None:
    model = transformer(window=4, cond_dim=COND)
    inputs = clips(model, 7)
    exact = model(*inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.new_cache(2).keys.dtype == torch.bfloat16
        for rough in (model(*inputs), feed(model, inputs, [3, 1, 1, 2])):
            assert (rough.float() - exact).norm() / exact.norm() < 0.03


@torch.inference_mode()
def test_a_cache_of_another_type_stays_close() -> None:
    model = transformer(window=4)
    (x,) = clips(model, 6)
    cache = model.new_cache(2, dtype=torch.bfloat16)
    out = torch.cat([model(part, cache=cache) for part in x.split([2, 1, 3], dim=1)], dim=1)
    assert out.dtype == torch.float32
    assert (out - model(x)).norm() / model(x).norm() < 0.03


def test_cache_must_fit_and_keeps_no_gradients() -> None:
    model, x = transformer(), torch.zeros(2, 1, 6, 32)
    with pytest.raises(WorkshopError, match=r"cache: it keeps no gradients; .*no_grad"):
        model(x, cache=model.new_cache(2))
    strangers: list[TimeCache] = [model.new_cache(3), transformer(window=4).new_cache(2)]
    for cache in strangers:
        with torch.no_grad(), pytest.raises(WorkshopError, match=r"cache: .*new_cache\(2\)"):
            model(x, cache=cache)


@pytest.mark.parametrize("rows", [[0, 2], [-1], [0.5], [[0, 1]], [True, False]])
def test_rows_must_be_there(rows: Any) -> None:
    with pytest.raises(WorkshopError, match="rows: "):
        transformer().new_cache(2).select(rows)

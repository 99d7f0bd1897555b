"""Drafts: in one pass, what a peek into the cache would see at every moment."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from tests.nn.test_space_time import COND, clips, transformer
from workshop_lib.errors import WorkshopError


@pytest.mark.parametrize("cond_dim", [0, COND])
@pytest.mark.parametrize("extra_tokens", [0, 1])
@pytest.mark.parametrize(("window", "frames"), [(8, 6), (4, 9), (2, 5), (1, 3), (4, 1)])
@torch.inference_mode()
def test_drafts_see_what_peeks_see(
    window: int, frames: int, extra_tokens: int, cond_dim: int
) -> None:
    """Also where the window is shorter than the clip: the same band in both. Only drafts come
    out."""
    model = transformer(window, cond_dim=cond_dim, extra_tokens=extra_tokens)
    inputs = clips(model, 2 * frames)
    at_once = model(*inputs, drafts=True)
    cache = model.new_cache(2)
    for t in range(frames):
        model(*[part[:, t : t + 1] for part in inputs], cache=cache)
        draft = [part[:, frames + t : frames + t + 1] for part in inputs]
        peek = model(*draft, cache=cache, write=False)
        torch.testing.assert_close(at_once[:, frames + t : frames + t + 1], peek, atol=1e-4, rtol=0)
    assert not at_once[:, :frames].any()


@torch.inference_mode()
def test_nobody_sees_another_draft_or_what_comes_later() -> None:
    model = transformer(window=8)
    (x,) = clips(model, 10)
    before = model(x, drafts=True)
    for t in range(5):
        changed = x.clone()
        changed[:, t + 1 : 5] += 1  # later frames
        changed[:, [5 + i for i in range(5) if i != t]] += 1  # other drafts
        assert torch.equal(model(changed, drafts=True)[:, 5 + t], before[:, 5 + t])
        changed[:, t] += 1
        assert not torch.equal(model(changed, drafts=True)[:, 5 + t], before[:, 5 + t])


@pytest.mark.parametrize("cond_dim", [0, COND])
@pytest.mark.parametrize("extra_tokens", [0, 1])
@pytest.mark.parametrize(("window", "depth"), [(1, 3), (2, 3), (3, 1), (3, 3), (8, 3)])
@torch.inference_mode()
def test_a_settled_frame_goes_into_the_cache_beside_a_draft(
    window: int, depth: int, extra_tokens: int, cond_dim: int
) -> None:
    """Several times round the ring: as if it had gone there before. The draft leaves no trace, so
    more drafts may follow, and frames without one. In float64, where every difference shows."""
    model = transformer(window, depth, cond_dim=cond_dim, extra_tokens=extra_tokens).double()
    inputs = [part.double() for part in clips(model, 20)]
    full, cache, apart = model(*inputs), model.new_cache(2), model.new_cache(2)
    close = partial(torch.testing.assert_close, atol=1e-12, rtol=0)
    for t in range(20):
        settled = [part[:, t : t + 1] for part in inputs]
        drafts = [[torch.randn_like(part) for part in settled] for _ in range(2)]
        close(model(*settled, cache=apart), full[:, t : t + 1])
        if t % 7 == 5:
            close(model(*settled, cache=cache), full[:, t : t + 1])
        else:
            pairs = zip(settled, drafts[0], strict=True)
            both = model(*[torch.cat(pair, dim=1) for pair in pairs], cache=cache, drafts=True)
            close(both[:, 1:], model(*drafts[0], cache=apart, write=False))
        close(*[model(*drafts[1], cache=held, write=False) for held in (cache, apart)])
        assert cache.length == t + 1


def test_there_are_as_many_drafts_as_settled_frames() -> None:
    model = transformer()
    with pytest.raises(WorkshopError, match="drafts: give as many as settled frames"):
        model(torch.zeros(2, 3, 6, 32), drafts=True)
    with torch.no_grad(), pytest.raises(WorkshopError, match=r"drafts: .* with a cache one"):
        model(torch.zeros(2, 4, 6, 32), cache=model.new_cache(2), drafts=True)

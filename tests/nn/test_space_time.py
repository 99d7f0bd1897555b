"""The shared transformer: no leak from the future, every part learns, wrong input is named."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from workshop_lib.errors import WorkshopError
from workshop_lib.nn.space_time import SpaceTimeConfig, SpaceTimeTransformer

GRID = (2, 3)
COND = 10


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small steps by the thousand: two threads on busy cores spend 100 times as long waiting."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def transformer(window: int = 8, depth: int = 3, **changes: Any) -> SpaceTimeTransformer:
    """A small model, moved away from its start, where conditioned blocks do nothing."""
    torch.manual_seed(0)
    model = SpaceTimeTransformer(SpaceTimeConfig(32, depth, 2, GRID, window, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def clips(model: SpaceTimeTransformer, frames: int, batch_size: int = 2) -> list[Tensor]:
    """Random x, and cond where the model wants it."""
    torch.manual_seed(1)
    config = model.config
    x = torch.randn(batch_size, frames, config.tokens, config.dim)
    cond = torch.randn(batch_size, frames, config.cond_dim)
    return [x, cond] if config.cond_dim else [x]


@pytest.mark.parametrize(("depth", "reach"), [(1, 3), (2, 6)])
@torch.inference_mode()
def test_how_far_back_a_frame_feels(depth: int, reach: int) -> None:
    """W - 1 frames for each block, exactly: stacked windows see further than one."""
    model = transformer(window=4, depth=depth)
    (x,) = clips(model, 12)
    before = model(x)[:, -1]
    for back in range(12):
        changed = x.clone()
        changed[:, 11 - back] += 1
        assert torch.equal(model(changed)[:, -1], before) == (back > reach)


@pytest.mark.parametrize("window", [4, 16])
@torch.inference_mode()
def test_future_never_changes_the_past(window: int) -> None:
    model = transformer(window, cond_dim=COND)
    inputs = clips(model, 9)
    before = model(*inputs)
    for t in range(1, 9):
        for which in range(2):
            changed = [part.clone() for part in inputs]
            changed[which][:, t:] = 100 * torch.randn_like(changed[which][:, t:])
            after = model(*changed)
            assert torch.equal(after[:, :t], before[:, :t])
            assert not torch.equal(after[:, t], before[:, t])


@torch.inference_mode()
def test_frames_are_seen_in_order() -> None:
    """Without positions in time, swapping two past frames would go unnoticed."""
    model = transformer()
    (x,) = clips(model, 4)
    assert (model(x[:, [1, 0, 2, 3]])[:, -1] - model(x)[:, -1]).abs().max() > 0.01


@torch.inference_mode()
def test_places_matter_only_by_their_positions() -> None:
    model = transformer(cond_dim=COND, extra_tokens=1)
    x, cond = clips(model, 4)
    before, order = model(x, cond), torch.randperm(model.config.tokens)
    assert (model(x[:, :, order], cond) - before[:, :, order]).abs().max() > 0.01
    model.space_cos, model.space_sin = model.space_cos[order], model.space_sin[order]
    torch.testing.assert_close(
        model(x[:, :, order], cond), before[:, :, order], atol=1e-4, rtol=1e-4
    )


def test_extra_tokens_come_first_and_have_no_place() -> None:
    plain, extra = transformer(), transformer(extra_tokens=2)
    assert (extra.space_cos[:2] == 1).all() and (extra.space_sin[:2] == 0).all()
    assert torch.equal(extra.space_cos[2:], plain.space_cos)
    assert torch.equal(extra.space_sin[2:], plain.space_sin)


@pytest.mark.parametrize("cond_dim", [0, COND])
def test_gradients_reach_every_parameter(cond_dim: int) -> None:
    """From the true start, one step of training away from the zeros of adaLN-zero."""
    torch.manual_seed(0)
    model = SpaceTimeTransformer(SpaceTimeConfig(32, 3, 2, GRID, cond_dim=cond_dim))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    inputs = clips(model, 4)
    target = torch.randn_like(inputs[0])
    for _ in range(2):
        optimizer.zero_grad()
        F.mse_loss(model(*inputs), target).backward()
        optimizer.step()
    dead = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or (parameter.grad == 0).float().mean() > 0.01
    ]
    assert dead == []


def test_conditioned_blocks_start_as_the_identity_and_learn_the_condition() -> None:
    model = SpaceTimeTransformer(SpaceTimeConfig(32, 3, 2, GRID, cond_dim=COND))
    x, cond = clips(model, 4)
    torch.testing.assert_close(model(x, cond), F.layer_norm(x, (32,)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loss = torch.tensor(torch.inf)
    for _ in range(60):  # the token's sign is to become the condition's
        cond = torch.randn(8, 2, COND)
        out = model(torch.randn(8, 2, 6, 32), cond).mean((2, 3))
        loss = F.binary_cross_entropy_with_logits(10 * out, (cond[..., 0] > 0).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3


@torch.inference_mode()
def test_condition_by_frame_by_token_or_for_all() -> None:
    model = transformer(cond_dim=COND)
    x, cond = clips(model, 4)
    by_frame = model(x, cond)
    torch.testing.assert_close(model(x, cond[:, :, None]), by_frame)
    everywhere = cond[:, :, None].expand(-1, -1, 6, -1)
    torch.testing.assert_close(model(x, everywhere), by_frame, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        model(x, cond[:1, :1]), model(x, cond[:1, :1].expand(2, 4, -1)), atol=1e-5, rtol=1e-5
    )
    own = everywhere.clone()
    own[:, -1, 2] += 1  # a change for one token of the last frame
    assert (model(x, own) - by_frame)[:, :-1].abs().max() < 1e-5
    assert (model(x, own) - by_frame)[:, -1, 2].abs().max() > 0.01


def test_conditioning_weights_are_shared_by_blocks() -> None:
    """A block more costs a table of 9 D numbers, not a projection of 9 D x cond_dim."""

    def size(depth: int, cond_dim: int) -> int:
        model = SpaceTimeTransformer(SpaceTimeConfig(32, depth, 2, GRID, cond_dim=cond_dim))
        return sum(parameter.numel() for parameter in model.parameters())

    own_norms = 3 * 2 * 32
    assert size(5, COND) - size(4, COND) == size(5, 0) - size(4, 0) - own_norms + 9 * 32


def test_output_neither_fades_nor_explodes_with_depth() -> None:
    x = torch.randn(2, 4, 6, 32)
    for depth in (1, 4, 16):
        torch.manual_seed(0)
        model = SpaceTimeTransformer(SpaceTimeConfig(32, depth, 2, GRID))
        model.norm = nn.Identity()  # type: ignore[assignment]
        change = (model(x) - x).std()
        assert 0.2 < change < 2


def previous_frame(tokens: Tensor) -> tuple[Tensor, Tensor]:
    return tokens.roll(1, dims=1), torch.tensor([False, True, True, True])[:, None].expand(4, 6)


def right_neighbor(tokens: Tensor) -> tuple[Tensor, Tensor]:
    return tokens.roll(-1, dims=2), torch.tensor([True, True, False] * 2).expand(4, 6)


@pytest.mark.parametrize(
    ("task", "window", "learnable"),
    [(previous_frame, 4, True), (previous_frame, 1, False), (right_neighbor, 1, True)],
)
def test_learns_to_copy_what_it_can_see(
    task: Callable[[Tensor], tuple[Tensor, Tensor]], window: int, learnable: bool
) -> None:
    """The same place a frame ago needs time attention, the place to the right space attention."""
    torch.manual_seed(0)
    model = SpaceTimeTransformer(SpaceTimeConfig(32, 2, 2, GRID, window))
    embed, head = nn.Embedding(8, 32), nn.Linear(32, 8)
    optimizer = torch.optim.AdamW(nn.ModuleList([model, embed, head]).parameters(), lr=5e-3)
    accuracy = 0.0
    for _ in range(200):
        tokens = torch.randint(8, (16, 4, 6))
        target, known = task(tokens)
        logits = head(model(embed(tokens)))[:, known]
        loss = F.cross_entropy(logits.flatten(0, 1), target[:, known].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        accuracy = float((logits.argmax(-1) == target[:, known]).float().mean())
    assert accuracy > 0.97 if learnable else accuracy < 0.25


@pytest.fixture
def compiler() -> Iterator[None]:
    """A compiler that remembers nothing from other tests."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_training_equals_plain(backend: str, compiler: None) -> None:
    model = transformer(window=3, depth=2, cond_dim=COND)
    inputs = clips(model, 5)
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, backend=backend, fullgraph=True)
    losses = [some(*inputs).square().mean() for some in (model, compiled)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(losses[0], losses[1])
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(other.grad, mine.grad, atol=1e-5, rtol=1e-3)


@torch.no_grad()
def test_compiled_play_needs_few_graphs(compiler: None) -> None:
    """Empty, one frame and more: three graphs each for looking and writing, then none more, or
    the compiler would give up (after 8)."""
    model, counter = transformer(window=3, depth=2, cond_dim=COND), CompileCounter()
    inputs = clips(model, 12)
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    cache, full = model.new_cache(2), model(*inputs)
    for t in range(12):
        new = [part[:, t : t + 1] for part in inputs]
        for write in (False, True):
            out = compiled(*new, cache=cache, write=write)
            torch.testing.assert_close(out, full[:, t : t + 1], atol=1e-4, rtol=0)
    assert counter.frame_count <= 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 30}, "dim: 30 is no multiple of 4"),
        ({"depth": 0}, "depth: 0 is less than 1"),
        ({"window": 0}, "window: 0"),
        ({"cond_dim": -1}, "cond_dim: -1"),
        ({"grid": (8,)}, "grid: "),
        ({"grid": (0, 8)}, "grid: "),
        ({"ff_mult": 0.0}, "ff_mult: "),
    ],
)
def test_config_names_the_key_that_does_not_fit(change: dict[str, Any], message: str) -> None:
    values: dict[str, Any] = {"dim": 32, "depth": 1, "heads": 2, "grid": GRID}
    with pytest.raises(WorkshopError, match=message):
        SpaceTimeConfig(**{**values, **change})


@pytest.mark.parametrize(
    ("x", "cond", "message"),
    [
        ((2, 4, 32), (2, 4, COND), "x: .* should be .B, T, 6, 32."),
        ((2, 4, 5, 32), (2, 4, COND), "x: "),
        ((2, 4, 6, 31), (2, 4, COND), "x: "),
        ((2, 0, 6, 32), (2, 0, COND), "x: "),
        ((2, 4, 6, 32), None, "cond: missing, but cond_dim is 10"),
        ((2, 4, 6, 32), (2, 4, 1), r"cond: \(2, 4, 1\) should be \(2, 4, 10\) or \(2, 4, 6, 10\)"),
        ((2, 4, 6, 32), (2, 3, COND), "cond: "),
        ((2, 4, 6, 32), (2, 4, 5, COND), "cond: "),
        ((2, 4, 6, 32), (2, COND), "cond: "),
        ((2, 4, 6, 32), (COND,), "cond: "),
    ],
)
def test_wrong_shapes_are_named(
    x: tuple[int, ...], cond: tuple[int, ...] | None, message: str
) -> None:
    model = transformer(cond_dim=COND)
    with pytest.raises(WorkshopError, match=message):
        model(torch.zeros(x), None if cond is None else torch.zeros(cond))


def test_unwanted_condition_is_named() -> None:
    with pytest.raises(WorkshopError, match="cond: given, but cond_dim is 0"):
        transformer()(torch.zeros(2, 4, 6, 32), torch.zeros(2, 4, COND))

"""VQ, FSQ and LFQ: tokens and vectors match, every code can be had, gradients pass through."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workshop_lib.errors import WorkshopError
from workshop_lib.nn.quantizers import (
    FSQ,
    LFQ,
    FSQConfig,
    LFQConfig,
    QuantizerConfig,
    VQConfig,
    code_entropies,
    make_quantizer,
)

CONFIGS: dict[str, QuantizerConfig] = {
    "vq": VQConfig(num_codes=32, code_dim=4),
    "vq gradient": VQConfig(num_codes=32, code_dim=4, ema=False),
    "vq cosine": VQConfig(num_codes=32, code_dim=4, cosine=True),
    "vq cosine gradient": VQConfig(num_codes=32, code_dim=4, cosine=True, ema=False),
    "fsq": FSQConfig(levels=(8, 5, 3, 2)),
    "lfq": LFQConfig(bits=4),
}
every_kind = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- One interface ---------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("dim", [4, 24])
def test_decode_gives_exactly_the_vectors_of_the_forward_pass(
    config: QuantizerConfig, dim: int
) -> None:
    quantizer = make_quantizer(config, dim)
    quantizer(vectors(3, 5, 7, dim, seed=1))
    quantizer.eval()
    out = quantizer(vectors(3, 5, 7, dim))
    assert out.vectors.shape == (3, 5, 7, dim)
    assert out.tokens.shape == (3, 5, 7) and out.tokens.dtype == torch.int64
    assert torch.equal(quantizer.decode(out.tokens), out.vectors)
    assert out.tokens.min() >= 0 and out.tokens.max() < quantizer.num_codes
    assert out.loss.shape == () and out.loss.isfinite()


@every_kind
def test_every_code_is_reached_and_comes_back(config: QuantizerConfig) -> None:
    """Token to vector to token, for all codes, through the public interface alone."""
    quantizer = make_quantizer(config, dim=4).eval()
    tokens = torch.arange(quantizer.num_codes)
    decoded = quantizer.decode(tokens)
    # FSQ's values are those after its tanh.
    z = decoded.atanh() if isinstance(quantizer, FSQ) else decoded
    assert torch.equal(quantizer(z).tokens, tokens)


@settings(deadline=None, max_examples=40)
@given(levels=st.lists(st.integers(2, 9), min_size=1, max_size=4).map(tuple))
def test_fsq_round_trip_for_any_levels(levels: tuple[int, ...]) -> None:
    quantizer = make_quantizer(FSQConfig(levels=levels), dim=len(levels))
    tokens = torch.arange(math.prod(levels))
    values = quantizer.decode(tokens)
    out = quantizer(values.atanh())
    assert torch.equal(out.tokens, tokens) and torch.equal(out.vectors, values)
    assert len(values.unique(dim=0)) == math.prod(levels)


@settings(deadline=None, max_examples=20)
@given(bits=st.integers(1, 10))
def test_lfq_round_trip_for_any_bits(bits: int) -> None:
    quantizer = make_quantizer(LFQConfig(bits=bits), dim=bits)
    tokens = torch.arange(2**bits)
    assert torch.equal(quantizer(quantizer.decode(tokens)).tokens, tokens)


@every_kind
def test_gradients_pass_straight_through(config: QuantizerConfig) -> None:
    """The encoder gets the decoder's gradient as if nothing had been rounded."""
    quantizer = make_quantizer(config, dim=4).eval()
    z, weight = vectors(6, 4).requires_grad_(), vectors(6, 4, seed=1)
    (quantizer(z).vectors * weight).sum().backward()
    smooth = z.detach().clone().requires_grad_()
    if isinstance(quantizer, FSQ):
        through = smooth.tanh()
    elif isinstance(config, VQConfig) and config.cosine:
        through = F.normalize(smooth, dim=-1)
    else:
        through = smooth
    (through * weight).sum().backward()
    torch.testing.assert_close(z.grad, smooth.grad)


@every_kind
def test_gradient_reaches_every_parameter(config: QuantizerConfig) -> None:
    quantizer = make_quantizer(config, dim=24)
    out = quantizer(vectors(64, 24))
    (out.vectors.square().mean() + out.loss).backward()
    for name, parameter in quantizer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@every_kind
def test_evaluation_changes_nothing(config: QuantizerConfig) -> None:
    quantizer = make_quantizer(config, dim=24)
    quantizer(vectors(64, 24))
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    with torch.no_grad():
        quantizer(vectors(64, 24, seed=1))  # training mode, but no training step
    quantizer.eval()
    first = quantizer(vectors(64, 24, seed=2))
    assert torch.equal(quantizer(vectors(64, 24, seed=2)).tokens, first.tokens)
    after = quantizer.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


@every_kind
def test_state_dict_restores_everything(config: QuantizerConfig, tmp_path: Path) -> None:
    """The restored quantizer goes on training exactly like the first one."""
    quantizer = make_quantizer(config, dim=24)
    for seed in range(3):
        quantizer(vectors(64, 24, seed=seed))
    torch.save(quantizer.state_dict(), tmp_path / "state.pt")
    other = make_quantizer(config, dim=24)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for seed in range(3, 6):
        torch.manual_seed(seed)
        one = quantizer(vectors(64, 24, seed=seed))
        torch.manual_seed(seed)
        two = other(vectors(64, 24, seed=seed))
        assert torch.equal(one.tokens, two.tokens) and torch.equal(one.vectors, two.vectors)


@every_kind
def test_quantizes_in_float32_under_autocast(config: QuantizerConfig) -> None:
    quantizer = make_quantizer(config, dim=24)
    quantizer(vectors(64, 24))
    quantizer.eval()
    z = vectors(64, 24, seed=1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = quantizer(z)
        decoded = quantizer.decode(out.tokens)
    plain = quantizer(z.float())
    assert out.vectors.dtype == torch.float32 and torch.equal(out.tokens, plain.tokens)
    assert torch.equal(out.vectors, plain.vectors) and torch.equal(decoded, plain.vectors)


@every_kind
def test_two_forward_passes_before_one_backward(config: QuantizerConfig) -> None:
    quantizer = make_quantizer(config, dim=24)
    first, second = (quantizer(vectors(64, 24, seed=seed)) for seed in range(2))
    (first.vectors.sum() + first.loss + second.vectors.sum() + second.loss).backward()


@every_kind
def test_logs_say_how_much_of_the_codebook_a_batch_used(config: QuantizerConfig) -> None:
    quantizer = make_quantizer(config, dim=4).eval()
    out = quantizer(vectors(50, 4))
    counts = torch.bincount(out.tokens, minlength=quantizer.num_codes).double()
    share = counts[counts > 0] / 50
    assert out.logs["usage"].item() == pytest.approx(len(share) / quantizer.num_codes)
    expected = (-share * share.log()).sum().exp().item()
    assert out.logs["perplexity"].item() == pytest.approx(expected, rel=1e-5)
    assert not any(value.requires_grad for value in out.logs.values())


@pytest.mark.parametrize("token", [-1, 16])
def test_mask_tokens_are_refused(token: int) -> None:
    with pytest.raises(WorkshopError, match="codes from 0 to 15"):
        make_quantizer(LFQConfig(bits=4), dim=4).decode(torch.tensor([3, token]))


@pytest.mark.parametrize(
    ("key", "make"),
    [
        ("levels is \\(8, 1\\)", lambda: FSQConfig(levels=(8, 1))),
        ("levels is \\(\\)", lambda: FSQConfig(levels=())),
        ("levels", lambda: FSQConfig(levels=(1024, 1025))),
        ("bits is 0", lambda: LFQConfig(bits=0)),
        ("bits is 21", lambda: LFQConfig(bits=21)),
        ("temperature", lambda: LFQConfig(temperature=0)),
        ("num_codes is 1", lambda: VQConfig(num_codes=1)),
        ("code_dim", lambda: VQConfig(code_dim=0)),
        ("ema_decay is 1.0", lambda: VQConfig(ema_decay=1.0)),
        ("reset_after", lambda: VQConfig(reset_after=-1)),
    ],
)
def test_bad_settings_are_named(key: str, make: type) -> None:
    with pytest.raises(WorkshopError, match=key):
        make()


# --- FSQ -------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", range(2, 10))
def test_fsq_values_lie_evenly_about_zero(levels: int) -> None:
    values = FSQ(FSQConfig(levels=(levels,)), 1).decode(torch.arange(levels)).flatten()
    torch.testing.assert_close(values, -values.flip(0))
    torch.testing.assert_close(values.diff(), torch.full((levels - 1,), 2 / levels))


@pytest.mark.parametrize("levels", range(2, 10))
def test_fsq_takes_the_nearest_value_and_all_equally_often(levels: int) -> None:
    """For tanh(z) spread evenly over -1 to 1; far out, where float32's tanh is 1, too."""
    quantizer = FSQ(FSQConfig(levels=(levels,)), 1)
    bounded = torch.linspace(-0.9999, 0.9999, 1000)[:, None]
    out = quantizer(bounded.atanh())
    assert (out.vectors - bounded).abs().max() <= 1 / levels + 1e-5
    counts = torch.bincount(out.tokens)
    assert len(counts) == levels and counts.max() - counts.min() <= 2
    assert quantizer(torch.tensor([[-1e4], [1e4]])).tokens.tolist() == [0, levels - 1]


def test_fsq_tokens_count_from_the_first_channel() -> None:
    """The order that saved tokens rely on."""
    values = FSQ(FSQConfig(levels=(4, 2)), 2).decode(torch.arange(8))
    first, second = [-0.75, -0.25, 0.25, 0.75], [-0.5, 0.5]
    assert values.tolist() == [[a, b] for b in second for a in first]


# --- LFQ -------------------------------------------------------------------------------------


def entropies_by_softmax(u: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The definition, with the giant softmax over all codes."""
    codes = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=u.shape[1])))
    p = (-torch.cdist(u, codes).square() / temperature).softmax(dim=1)
    return torch.special.entr(p).sum(1).mean(), torch.special.entr(p.mean(0)).sum()


@settings(deadline=None, max_examples=30)
@given(
    bits=st.integers(1, 7),
    count=st.integers(1, 40),
    temperature=st.sampled_from([0.3, 1.0, 5.0]),
    seed=st.integers(0, 99),
)
def test_lfq_entropies_are_those_of_the_whole_softmax(
    bits: int, count: int, temperature: float, seed: int
) -> None:
    u = vectors(count, bits, seed=seed)
    fast, slow = code_entropies(u, temperature), entropies_by_softmax(u, temperature)
    for mine, theirs in zip(fast, slow, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_lfq_entropy_gradients_are_finite_where_signs_are_sure() -> None:
    u = (100 * vectors(16, 10)).requires_grad_()
    per_vector, of_batch = code_entropies(u, 0.01)
    (per_vector - of_batch).backward()
    assert u.grad is not None and u.grad.isfinite().all()


@pytest.mark.parametrize("bits", [4, 18])
@pytest.mark.parametrize("diversity", [0.0, 1.0, 2.0, 20.0])
def test_one_step_down_the_entropy_loss_goes_the_right_way(bits: int, diversity: float) -> None:
    """Each vector gets surer of its code, and the batch more varied."""
    config = LFQConfig(bits=bits, entropy=1.0, diversity=diversity, temperature=1.0, commitment=0.0)
    quantizer = LFQ(config, dim=bits)
    u = (0.4 * vectors(256, bits) + 0.3).requires_grad_()  # more + than -
    before = quantizer(u)
    before.loss.backward()
    assert u.grad is not None
    after = quantizer(u.detach() - u.grad)
    if diversity <= 2:  # else variety may cost some sureness
        assert after.logs["vector_entropy"] < before.logs["vector_entropy"] - 0.001
    if diversity >= 1:
        assert after.logs["batch_entropy"] > before.logs["batch_entropy"] + 0.001


def test_lfq_spreads_a_collapsed_batch_over_all_codes() -> None:
    """With the weights it has by default, from one code for everything."""
    quantizer = LFQ(LFQConfig(bits=4), dim=4)
    u = (0.05 * vectors(256, 4) + 0.3).requires_grad_()
    assert quantizer(u).logs["usage"] == 1 / 16
    optimizer = torch.optim.Adam([u], lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        quantizer(u).loss.backward()
        optimizer.step()
    logs = quantizer(u).logs
    assert logs["usage"] == 1 and logs["batch_entropy"] > 0.95 * math.log(16)
    assert logs["vector_entropy"] < 0.5

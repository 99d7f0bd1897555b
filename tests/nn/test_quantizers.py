"""VQ, FSQ and LFQ: tokens and vectors match, every code can be had, and codebooks stay in use."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from workshop_lib.errors import WorkshopError
from workshop_lib.nn.codebook import Codebook, CodebookUse, perplexity
from workshop_lib.nn.quantizers import (
    FSQ,
    LFQ,
    VQ,
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
    total = sum(quantizer(vectors(64, 24, seed=seed)).vectors.sum() for seed in range(2))
    assert isinstance(total, Tensor)
    total.backward()


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
    config = LFQConfig(bits=bits, entropy=1.0, diversity=diversity, commitment=0.0)
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
    u = (0.1 * vectors(256, 4) + 0.5).requires_grad_()
    assert quantizer(u).logs["usage"] == 1 / 16
    optimizer = torch.optim.Adam([u], lr=0.02)
    for _ in range(100):
        optimizer.zero_grad()
        quantizer(u).loss.backward()
        optimizer.step()
    logs = quantizer(u).logs
    assert logs["usage"] == 1 and logs["batch_entropy"] > 0.95 * math.log(16)
    assert logs["vector_entropy"] < 0.5


# --- VQ --------------------------------------------------------------------------------------


def test_running_means_by_hand() -> None:
    """Decay 1/2: what came before counts half. The third step leaves the second code alone."""
    config = VQConfig(num_codes=2, code_dim=1, ema_decay=0.5, data_start=False, reset_after=0)
    quantizer = VQ(config, dim=1)
    quantizer.codebook.table.copy_(torch.tensor([[0.0], [10.0]]))
    for batch, codes, masses in (
        ([1.0, 3.0, 8.0], [4 / 2, 8 / 1], [1.0, 0.5]),
        ([4.0, 10.0], [(2 + 4) / (1 + 1), (4 + 10) / (0.5 + 1)], [1.0, 0.75]),
        ([0.0], [(3 + 0) / (1 + 1), 28 / 3], [1.0, 0.375]),
    ):
        quantizer(torch.tensor(batch)[:, None])
        book = quantizer.codebook
        torch.testing.assert_close(book.table.flatten(), torch.tensor(codes))
        torch.testing.assert_close(book.mass, torch.tensor(masses))


def test_nearest_is_nearest_also_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workshop_lib.nn.codebook.ROWS_AT_ONCE", 10)
    for cosine in (False, True):
        book = Codebook(VQConfig(num_codes=50, code_dim=6, cosine=cosine))
        points = vectors(33, 6)
        distance = torch.cdist(F.normalize(points, dim=1) if cosine else points, book.codes())
        assert torch.equal(book.nearest(points), distance.argmin(dim=1))


def clusters(count: int, step: int, dim: int = 4, spread: float = 0.05) -> tuple[Tensor, Tensor]:
    """512 vectors around `count` far-apart centers, and the centers."""
    centers = F.normalize(vectors(count, dim, seed=7), dim=1) * 3
    which = torch.randint(count, (512,), generator=torch.Generator().manual_seed(step))
    return centers[which] + spread * vectors(512, dim, seed=step), centers


@pytest.mark.parametrize("ema", [True, False])
@pytest.mark.parametrize("cosine", [True, False])
def test_codes_go_to_the_clusters(ema: bool, cosine: bool) -> None:
    """And stay there while the clusters' vectors keep coming; the error falls to the noise."""
    torch.manual_seed(0)
    quantizer = VQ(VQConfig(num_codes=64, code_dim=4, ema=ema, cosine=cosine), dim=4)
    trained = list(quantizer.parameters())
    optimizer = torch.optim.Adam(trained, lr=0.01) if trained else None
    for step in range(150):
        loss = quantizer(clusters(8, step)[0]).loss
        if optimizer:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    quantizer.eval()
    points, centers = clusters(8, 999)
    if cosine:
        points, centers = F.normalize(points, dim=1), F.normalize(centers, dim=1)
    error = (quantizer(points).vectors - points).square().mean().sqrt()
    assert error < (0.05 if not cosine else 0.05 / 3)
    nearest = torch.cdist(centers, quantizer.codebook.codes()).amin(dim=1)
    assert nearest.max() < 0.1


@pytest.mark.parametrize("ema", [True, False])
def test_dead_codes_come_back_by_resets_and_not_without(ema: bool) -> None:
    def usage_after_training(reset_after: int) -> float:
        torch.manual_seed(0)
        config = VQConfig(
            num_codes=128, code_dim=8, ema=ema, data_start=False, reset_after=reset_after
        )
        quantizer = VQ(config, dim=8)
        optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.003) if not ema else None
        far = 20.0  # vectors far from all codes: one code is nearest to nearly everything
        for step in range(160):
            loss = quantizer(vectors(1024, 8, seed=step) + far).loss
            if optimizer:
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        use = CodebookUse(128)
        quantizer.eval()
        for step in range(1000, 1004):
            use.add(quantizer(vectors(1024, 8, seed=step) + far).tokens)
        return use.share

    with_resets, without = usage_after_training(50), usage_after_training(0)
    print(f"usage with resets {with_resets:.2f}, without {without:.2f}")
    assert with_resets > 0.9 and without < 0.2


def test_a_code_is_reset_after_so_many_idle_steps_and_no_sooner() -> None:
    config = VQConfig(num_codes=2, code_dim=1, data_start=False, reset_after=3)
    quantizer = VQ(config, dim=1)
    quantizer.codebook.table.copy_(torch.tensor([[0.0], [100.0]]))
    for _ in range(3):
        quantizer(torch.tensor([[1.0], [2.0]]))
        assert quantizer.codebook.table[1] == 100
    quantizer(torch.tensor([[1.0], [2.0]]))
    assert quantizer.codebook.table[1] in (1, 2)


def test_codes_start_as_vectors_of_the_first_batch() -> None:
    quantizer = VQ(VQConfig(num_codes=16, code_dim=4), dim=4)
    points = vectors(64, 4) * 5 + 30
    torch.manual_seed(0)
    out = quantizer(points)
    assert (out.vectors[:, None] == points).all(dim=2).any(dim=1).all()
    assert out.logs["usage"] == 1


# --- Two processes ---------------------------------------------------------------------------

STEPS = 12


def _train(config: VQConfig, batches: list[Tensor], seed: int) -> VQ:
    torch.manual_seed(1)
    quantizer = VQ(config, dim=4)  # the same start everywhere, as DDP sees to
    torch.manual_seed(seed)
    for batch in batches:
        quantizer(batch)
    return quantizer


def _train_as_one_of_two(rank: int, folder: str, config: VQConfig) -> None:
    store = f"file://{folder}/rendezvous"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    batches = [vectors(40, 4, seed=2 * step + rank) + rank for step in range(STEPS)]
    quantizer = _train(config, batches, seed=rank)
    torch.save(quantizer.state_dict(), f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.parametrize("resets", [True, False])
def test_two_processes_keep_equal_codebooks(resets: bool, tmp_path: Path) -> None:
    """Bit by bit, with different data each; without chance, as one process with both would."""
    config = VQConfig(num_codes=24, code_dim=4, data_start=resets, reset_after=3 if resets else 0)
    mp.spawn(_train_as_one_of_two, (str(tmp_path), config), nprocs=2)
    one, two = (torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    if not resets:
        both = [
            torch.cat([vectors(40, 4, seed=2 * step + rank) + rank for rank in range(2)])
            for step in range(STEPS)
        ]
        alone = _train(config, both, seed=0).state_dict()
        for name in one:
            torch.testing.assert_close(one[name], alone[name])


# --- Use of the codebook ---------------------------------------------------------------------


def test_codebook_use_adds_up_over_batches() -> None:
    use = CodebookUse(8)
    use.add(torch.tensor([[0, 0], [1, 1]]))
    use.add(torch.tensor([2, 2, 3, 3]))
    assert use.counts.tolist() == [2, 2, 2, 2, 0, 0, 0, 0]
    assert use.share == 0.5 and use.perplexity == pytest.approx(4)
    assert use.dead.tolist() == [4, 5, 6, 7]


@settings(deadline=None)
@given(counts=st.lists(st.integers(0, 1000), min_size=1, max_size=50))
def test_perplexity_is_between_one_and_the_codes_in_use(counts: list[int]) -> None:
    used = sum(count > 0 for count in counts)
    value = perplexity(torch.tensor(counts)).item()
    assert 1 - 1e-4 <= value <= max(used, 1) * (1 + 1e-4)

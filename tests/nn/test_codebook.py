"""The learned codebook of VQ: it follows its vectors, stays in use, and agrees across processes."""

from __future__ import annotations

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
from workshop_lib.nn.quantizers import VQ, VQConfig
from workshop_lib.training.cluster import leave


def vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


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


def test_a_rate_leaves_one_code_for_what_is_nearly_the_same() -> None:
    """Two clusters and four codes: without a rate each cluster wears two codes, with one it has
    one; but one far from the others keeps its own, however rare it is."""
    used = {}
    for rate in (0.0, 0.2):
        torch.manual_seed(0)
        book = Codebook(VQConfig(num_codes=4, code_dim=2, rate=rate, reset_after=0))
        for step in range(300):
            points = vectors(200, 2, seed=step) * 0.15
            points[:150, 0] += 1
            points[150:, 0] -= 1
            book.restart_idle(points)
            book.follow(points, book.nearest(points))
        tokens = book.nearest(points)
        assert not set(tokens[:150].tolist()) & set(tokens[150:].tolist())
        used[rate] = len(tokens.unique())
    assert used == {0.0: 4, 0.2: 2}
    with pytest.raises(WorkshopError, match="rate"):
        VQConfig(rate=0.1, ema=False)


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
    quantizer.codebook.table.copy_(torch.tensor([[0.0], [90.0]]))
    quantizer(torch.tensor([[0.0], [0.0], [100.0]]))
    for _ in range(3):
        quantizer(torch.tensor([[1.0], [2.0]]))
        assert quantizer.codebook.table[1] == 100
    quantizer(torch.tensor([[1.0], [2.0]]))
    assert quantizer.codebook.table[1] in (1, 2)  # and nothing of 100 is left in its mean


def test_codes_for_equal_vectors_try_again_at_once() -> None:
    """Of codes that start on equal vectors one is chosen; the others must not wait 50 steps."""
    torch.manual_seed(0)
    quantizer = VQ(VQConfig(num_codes=8, code_dim=1), dim=1)
    points = torch.cat([torch.zeros(60, 1), torch.arange(1.0, 21)[:, None]])
    for _ in range(12):
        usage = quantizer(points).logs["usage"]
    assert usage == 1


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
    leave(0)


@pytest.mark.parametrize(("ema", "resets"), [(True, True), (False, True), (True, False)])
def test_two_processes_keep_equal_codebooks(ema: bool, resets: bool, tmp_path: Path) -> None:
    """Bit by bit, with different data each; without chance, as one process with both would."""
    after = 3 if resets else 0
    config = VQConfig(num_codes=24, code_dim=4, ema=ema, data_start=resets, reset_after=after)
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

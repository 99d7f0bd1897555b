"""What a step costs in arithmetic and in memory, and what is done where memory is short."""

from __future__ import annotations

import copy
import csv
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.conftest import SAMPLE
from workshop_lib.data.clip import Clip
from workshop_lib.data.datamodule import ClipDataModule, InParts, parts_of_batch
from workshop_lib.errors import WorkshopError
from workshop_lib.models.tokenizer import Tokenizer
from workshop_lib.nn.codebook import Codebook, VQConfig
from workshop_lib.training.live import from_recipe
from workshop_lib.training.memory import checkpoint_activations, largest_micro_batch
from workshop_lib.training.options import precision, strategy
from workshop_lib.training.run import fit
from workshop_lib.training.sharded import ShardedStrategy, check_sharded
from workshop_lib.training.speed import count_flops, peak_tflops


def clip(count: int = 2, length: int = 4) -> Clip:
    torch.manual_seed(0)
    return Clip(
        torch.randint(0, 256, (count, length, 64, 64, 3), dtype=torch.uint8),
        torch.zeros(count, length, dtype=torch.int64),
        torch.zeros(count, length, dtype=torch.bool),
    )


class Two(nn.Module):
    """Two matrices over the 64 * 64 * 3 numbers of each frame."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12288, 8, bias=False), nn.Linear(8, 5, bias=False)

    def loss(self, clip: Clip):
        return self.second(self.first(clip.video.flatten(2))).square().mean(), {}


def test_flops_are_those_counted_on_paper() -> None:
    """A product (n x a) (a x b) is 2 n a b; backward one for the weights, and one for the inputs
    of all layers but the first."""
    model, frames = Two(), 4
    expected = frames * (2 * 2 * 12288 * 8 + 3 * 2 * 8 * 5)
    assert count_flops(model, clip(2)) == expected == count_flops(model, clip(3))
    assert all(p.grad is None for p in model.parameters())


def vit() -> Tokenizer:
    torch.manual_seed(1)
    sizes = {"dim": 64, "depth": 2, "heads": 2, "latent_dim": 16, "window": 4}
    model, _ = from_recipe("tokenizer/full", **sizes)
    return model.train()


def test_flops_of_a_transformer_are_six_per_parameter_and_token() -> None:
    """Kaplan et al. 2020, section 2.1; what attention does between tokens comes on top."""
    model = vit()
    blocks = sum(p.numel() for n, p in model.named_parameters() if "block" in n and p.ndim == 2)
    matmuls = 6 * blocks * 4 * 256
    attention = 2 * 2 * 6 * 4 * 256 * 2 * (256 + 4) * 64  # coders, blocks; q k and weights v
    assert matmuls < count_flops(model, clip(1)) < 1.6 * (matmuls + attention)


def test_counting_changes_nothing() -> None:
    model, clips = vit(), clip(1)
    before = copy.deepcopy(model.state_dict())
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    count_flops(model, clips)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_blocks_computed_twice_have_the_same_gradients_and_keep_less() -> None:
    kept: dict[bool, int] = {}
    gradients = {}
    for twice in (False, True):
        model = vit()
        if twice:
            assert checkpoint_activations(model) == 4
            model = copy.deepcopy(model)  # as averaged weights do
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t
        ):
            model.loss(clip(1))[0].backward()
        kept[twice] = sum(sizes)
        gradients[twice] = {n: p.grad for n, p in model.named_parameters()}
    for name, gradient in gradients[False].items():
        assert torch.equal(gradient, gradients[True][name]), name
    assert kept[True] < kept[False] / 3


def test_without_blocks_there_is_nothing_to_compute_twice() -> None:
    with pytest.raises(WorkshopError, match="Two has no transformer blocks"):
        checkpoint_activations(Two())


@pytest.mark.parametrize(("limit", "expected"), [(100, 24), (24, 24), (13, 12), (7, 6), (1, 1)])
def test_the_largest_part_that_fits_is_found(limit: int, expected: int) -> None:
    tried: list[int] = []

    def fits(count: int) -> bool:
        tried.append(count)
        return count <= limit

    found = largest_micro_batch(24, fits)
    assert found <= limit and 24 % found == 0 and found > expected / 2
    assert len(tried) <= 6 and sum(count > limit for count in tried) <= 1


def test_if_nothing_fits_it_says_so() -> None:
    with pytest.raises(WorkshopError, match="not even one clip"):
        largest_micro_batch(8, lambda count: False)


def test_parts_are_the_whole_batch_in_order() -> None:
    data = ClipDataModule(str(SAMPLE / "easy"), length=2, batch_size=8, micro_batch=2)
    whole = next(
        iter(ClipDataModule(str(SAMPLE / "easy"), length=2, batch_size=8).train_dataloader())
    )
    loader = data.train_dataloader()
    assert isinstance(loader, InParts) and data.parts == 4
    parts = iter(loader)
    frames = torch.cat([next(parts).frames for _ in range(4)])
    assert torch.equal(frames, whole.frames)


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ((8, 3, None), "multiple of the 3 processes"),
        ((8, 2, 3), "must divide"),
        ((8, 1, 0), "must"),
    ],
)
def test_batches_that_do_not_divide_are_refused(numbers, says: str) -> None:
    with pytest.raises(WorkshopError, match=says):
        parts_of_batch(*numbers)


def test_one_process_has_nothing_to_share_out() -> None:
    assert strategy("auto", 1, False) == "auto" and strategy("auto", 2, False) == "ddp"
    assert strategy("fsdp", 1, False) == "auto"
    assert isinstance(strategy("fsdp", 2, False), ShardedStrategy)


@pytest.mark.parametrize("name", ["deepspeed", "fsdp_cpu_offload"])
def test_other_ways_to_split_a_model_are_refused(name: str) -> None:
    with pytest.raises(WorkshopError, match=f"strategy {name}: use fsdp or ddp"):
        strategy(name, 8, False)


def test_half_precision_is_refused_where_it_would_crawl(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for has_it in (False, True):
        monkeypatch.setattr("workshop_lib.training.options.cpu_has_bf16", lambda has=has_it: has)
        assert precision(None) == "32-true"  # a learner never gets it without asking
        for asked in ("bf16-mixed", "bf16-true", "16-mixed"):
            if has_it and asked == "bf16-mixed":
                assert precision(asked) == asked
                continue
            with pytest.raises(WorkshopError, match=f"precision {asked} needs a GPU"):
                precision(asked)


@pytest.mark.parametrize(
    ("gan", "compiled", "precision", "ema", "says"),
    [
        (True, False, "32-true", True, "gan"),
        (False, True, "32-true", True, "compile"),
        (False, False, "16-mixed", True, "trainer.precision 16-mixed"),
        (False, False, "32-true", False, "a quantizer with ema false"),
    ],
)
def test_what_fsdp_cannot_do_is_refused(
    gan: bool, compiled: bool, precision: str, ema: bool, says: str
) -> None:
    model = Codebook(VQConfig(ema=ema))
    with pytest.raises(WorkshopError, match=f"fsdp: not with {says}; use ddp"):
        check_sharded(model, gan, compiled, precision)
    check_sharded(Codebook(VQConfig()), False, False, "bf16-mixed")


def test_peaks_are_told_apart() -> None:
    assert peak_tflops("NVIDIA H100 80GB HBM3") == 989
    assert peak_tflops("NVIDIA A100-SXM4-80GB") == 312 and peak_tflops("NVIDIA L40S") == 362
    assert peak_tflops("Tesla K80") is None


def test_a_run_logs_its_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--model.dim=16", "--model.depth=1", "--model.latent_dim=16", "--data.length=2",
               "--data.batch_size=8", f"--data.path={SAMPLE / 'easy'}", "--data.val_batches=1",
               "--data.micro_batch=4", "--trainer.max_steps=4", "--trainer.log_every_n_steps=2",
               "--preview_every=0"]  # fmt: skip
    assert fit(["-c", "tokenizer/tiny", *options]) == 0
    with open("runs/tokenizer-tiny/version_0/metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["speed/tflops"]]
    assert len(rows) == 2
    model, _ = from_recipe("tokenizer/tiny", dim=16, depth=1, latent_dim=16)
    per_frame = count_flops(model, clip(2, 2)) / 2
    for row in rows:
        frames = float(row["speed/frames_per_s"])
        assert float(row["speed/tflops"]) == pytest.approx(frames * per_frame / 1e12, rel=1e-3)
        assert float(row["speed/tokens_per_s"]) == pytest.approx(64 * frames, rel=1e-3)

"""Training against a discriminator: both learn, steps are counted once, runs resume, and exports
hold the tokenizer alone."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from tests.conftest import REPOSITORY, SAMPLE
from workshop_lib.cli import main
from workshop_lib.data.clip import Clip
from workshop_lib.data.datamodule import ClipDataModule
from workshop_lib.errors import WorkshopError
from workshop_lib.models.discriminator import DiscriminatorConfig
from workshop_lib.models.files import load_model
from workshop_lib.models.tokenizer import Tokenizer, TokenizerConfig, psnr
from workshop_lib.nn.quantizers import FSQConfig, LFQConfig, VQConfig
from workshop_lib.training.callbacks import AveragedWeights
from workshop_lib.training.gan import GanConfig, GanTrainingModule, adaptive_weight
from workshop_lib.training.module import TrainingModule
from workshop_lib.training.optim import OptimConfig

SMALL = TokenizerConfig(size=32, patch=16, dim=8, depth=1, latent_dim=8)
JUDGE = DiscriminatorConfig(dim=4, depth=2)
OPTIM = OptimConfig(lr=1e-3, warmup=2, ema=0)


class Crops(IterableDataset[Clip]):
    """The same real clips again and again, in another order each time, cut to 32x32."""

    def __init__(self, clips: int = 8, length: int = 1, look: str = "easy") -> None:
        data = ClipDataModule(str(SAMPLE / look), length=length, batch_size=max(8, clips))
        clip = next(iter(data.train_dataloader()))[:clips]
        self.clip = Clip(clip.frames[:, :, 24:56, 16:48].contiguous(), clip.actions, clip.first)

    def __iter__(self) -> Iterator[Clip]:
        while True:
            yield self.clip


def module(
    gan: GanConfig | None, config: TokenizerConfig = SMALL, optim: OptimConfig = OPTIM
) -> Any:
    torch.manual_seed(0)
    tokenizer = Tokenizer(config)
    return GanTrainingModule(tokenizer, optim, gan) if gan else TrainingModule(tokenizer, optim)


def fit(
    module: TrainingModule,
    data: Crops,
    steps: int,
    *callbacks: Callback,
    resume: Path | None = None,
) -> Trainer:
    trainer = Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    trainer.fit(module, DataLoader(data, batch_size=None), ckpt_path=resume)
    return trainer


def state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture(scope="module")
def data() -> Crops:
    return Crops()


def test_adaptive_weight_by_hand() -> None:
    last = torch.nn.Parameter(torch.tensor([2.0, -1.0]))
    loss = 3 * last[0] + 4 * last[1]  # gradient (3, 4), length 5
    fooled = 0.25 * last[0] ** 2  # gradient (1, 0)
    assert adaptive_weight(loss, fooled, last).item() == pytest.approx(5 / (1 + 1e-4))
    assert adaptive_weight(loss, 0 * fooled, last).item() == 1e4  # 5 / 1e-4, but no more than 1e4
    assert adaptive_weight(loss, fooled, last, limit=2).item() == 2
    assert not adaptive_weight(loss, fooled, last).requires_grad
    assert last.grad is None  # asking leaves nothing behind


@pytest.mark.parametrize("architecture", ["conv", "vit", "magvit2"])
def test_the_last_layer_makes_the_pixels(architecture: Any, data: Crops) -> None:
    """Doubled with its bias, pixels double."""
    tokenizer = Tokenizer(
        TokenizerConfig(architecture=architecture, size=32, patch=8, dim=8, depth=1, heads=2)
    ).eval()
    with torch.no_grad():
        before = tokenizer(data.clip.video)[0]
        last = tokenizer.last_layer
        bias = next(p for p in reversed(list(tokenizer.decoder.parameters())) if p.ndim == 1)
        last.mul_(2)
        bias.mul_(2)
        assert torch.allclose(tokenizer(data.clip.video)[0], 2 * before, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "quantizer", "kind"),
    [
        ("conv", FSQConfig(), "frames"),
        ("vit", LFQConfig(), "clips"),
        ("magvit2", VQConfig(ema=False), "clips"),
    ],
)
def test_gradient_reaches_every_weight_of_both(
    architecture: Any, quantizer: Any, kind: Any
) -> None:
    config = TokenizerConfig(
        architecture=architecture, size=32, patch=8, dim=8, depth=1, heads=2, quantizer=quantizer
    )
    judge = DiscriminatorConfig(kind, dim=4, depth=2)
    # Quick to judge beyond 1 and -1: below, the hinge's pulls on the last bias cancel exactly.
    both = module(GanConfig(start_step=0, discriminator=judge, lr=0.05), config)
    fit(both, Crops(clips=2, length=3), steps=8)
    # The gradients of the last step lie there still.
    silent = [n for n, p in both.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_before_it_starts_training_is_the_plain_one(data: Crops) -> None:
    """Bit for bit, and the discriminator still is as it was made."""
    plain, gan = module(None), module(GanConfig(start_step=4, head_start=1, discriminator=JUDGE))
    untouched = state(gan.discriminator)
    fit(plain, data, 3)
    fit(gan, data, 3)
    assert same(plain.model.state_dict(), gan.model.state_dict())
    assert same(untouched, gan.discriminator.state_dict())


def test_the_discriminator_learns_first_then_the_tokenizer_listens(data: Crops) -> None:
    gan = GanConfig(start_step=4, head_start=2, discriminator=JUDGE)
    plain, with_gan = module(None), module(gan)
    untouched = state(with_gan.discriminator)
    fit(plain, data, 4)
    fit(with_gan, data, 4)
    assert same(plain.model.state_dict(), with_gan.model.state_dict())
    assert not same(untouched, with_gan.discriminator.state_dict())

    plain, with_gan = module(None), module(gan)
    fit(plain, data, 5)
    fit(with_gan, data, 5)
    assert not same(plain.model.state_dict(), with_gan.model.state_dict())


def test_the_advice_is_as_long_as_its_weight_says(data: Crops) -> None:
    """At the last layer, weight 0.25 makes its gradient a quarter of the reconstruction's."""
    gan = module(GanConfig(weight=0.25, discriminator=JUDGE))
    video = data.clip.video
    reconstruction, quantized = gan.model(video)
    loss, _ = gan.model.loss_of(video, reconstruction, quantized)
    advice, logs = gan._advice(loss, reconstruction)
    last = gan.model.last_layer
    lengths = [
        torch.autograd.grad(part, last, retain_graph=True)[0].norm() for part in (loss, advice)
    ]
    assert (lengths[1] / lengths[0]).item() == pytest.approx(0.25, rel=0.02)
    assert logs["adaptive_weight"] > 0


def test_steps_are_the_tokenizers(data: Crops) -> None:
    """Twice as many optimizer steps, yet max_steps, schedules and averages count one per batch."""
    seen: list[int] = []

    class Count(Callback):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            seen.append(trainer.global_step)

    gan = module(GanConfig(start_step=2, head_start=1, discriminator=JUDGE))
    trainer = fit(gan, data, 6, Count())
    assert trainer.global_step == 6 and seen == [1, 2, 3, 4, 5, 6]
    steps = [{int(s["step"]) for s in o.state.values()} for o in trainer.optimizers]
    assert steps == [{6}, {5}]
    schedulers: Any = gan.lr_schedulers()
    assert [s.last_epoch for s in schedulers] == [6, 5]
    # both end at the same share of their highest rate
    rates = [o.param_groups[0]["lr"] for o in trainer.optimizers]
    assert rates[0] / OPTIM.lr == pytest.approx(rates[1] / gan.gan.lr)
    assert rates[0] / OPTIM.lr == pytest.approx(OPTIM.end_lr)


def test_a_codebook_learns_once_a_step(data: Crops) -> None:
    quantizer = VQConfig(num_codes=64, code_dim=8, data_start=False, reset_after=0)
    config = TokenizerConfig(size=32, patch=16, dim=8, depth=1, latent_dim=8, quantizer=quantizer)
    gan = module(GanConfig(start_step=0, discriminator=JUDGE), config)
    fit(gan, data, 5)
    # 32 tokens cannot use all 64 codes: an unused one has been idle for as many steps as there were
    assert gan.model.quantizer.codebook.idle.max() == 5


def test_validation_is_the_same(data: Crops) -> None:
    values = []
    for gan in (None, GanConfig(start_step=0, discriminator=JUDGE)):
        trainer = Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, limit_val_batches=1
        )
        values.append(
            trainer.validate(module(gan), DataLoader(data, batch_size=None), verbose=False)[0]
        )
    assert values[0] == values[1] and "val/psnr" in values[0]


def test_a_stopped_run_goes_on_as_if_it_had_not(data: Crops, tmp_path: Path) -> None:
    """6 steps, or 3 and 3 more: the same weights, averages and optimizer states, bit for bit."""

    def once(folder: str, steps: int = 6, resume: Path | None = None) -> tuple[Any, Trainer]:
        gan = module(GanConfig(start_step=2, head_start=1, discriminator=JUDGE))
        saving = ModelCheckpoint(
            tmp_path / folder, filename="{step}", every_n_train_steps=3, save_top_k=-1
        )
        return gan, fit(gan, data, steps, AveragedWeights(0.9), saving, resume=resume)

    straight, _ = once("straight")
    resumed, other = once("resumed", resume=tmp_path / "straight/step=3.ckpt")
    assert other.global_step == 6
    assert same(straight.state_dict(), resumed.state_dict())
    one, two = (
        torch.load(tmp_path / folder / "step=6.ckpt", weights_only=True)
        for folder in ("straight", "resumed")
    )
    assert same(one["current_model_state"], two["current_model_state"])
    assert len(one["optimizer_states"]) == 2
    for first, second in zip(one["optimizer_states"], two["optimizer_states"], strict=True):
        assert first["param_groups"] == second["param_groups"]
        for key, moments in first["state"].items():
            assert same(moments, second["state"][key])
    assert one["lr_schedulers"] == two["lr_schedulers"]


def test_a_checkpoint_without_discriminator_is_refused(data: Crops, tmp_path: Path) -> None:
    fit(module(None), data, 2, ModelCheckpoint(tmp_path, filename="a", every_n_train_steps=2))
    gan = module(GanConfig(discriminator=JUDGE))
    with pytest.raises(WorkshopError, match="a run without gan"):
        fit(gan, data, 4, resume=tmp_path / "a.ckpt")


def test_compile_is_refused_where_it_cannot_work() -> None:
    with pytest.raises(WorkshopError, match=r"^compile: .* gan.adaptive false"):
        GanTrainingModule(Tokenizer(SMALL), OPTIM, GanConfig(discriminator=JUDGE), compile=True)


def edge_energy(video: Tensor) -> float:
    """Mean squared difference of neighbors: an edge smeared over n pixels has 1/n of it."""
    rows, columns = video.diff(dim=-2), video.diff(dim=-1)
    return (rows.square().mean() + columns.square().mean()).item()


@pytest.mark.slow
def test_reconstructions_get_sharper_and_stay_close() -> None:
    """32 crops of hard levels through 4 bits each: squared error alone answers with a blur."""
    data = Crops(clips=32, look="hard")
    config = TokenizerConfig(
        size=32, patch=16, dim=16, depth=1, latent_dim=16, quantizer=FSQConfig(levels=(2,))
    )
    optim = OptimConfig(lr=3e-3, warmup=10, ema=0)
    gan = GanConfig(
        weight=1.0, start_step=50, head_start=50, discriminator=DiscriminatorConfig(dim=8, depth=2)
    )
    energy, error = [], []
    for case in (None, gan):
        trained = module(case, config, optim)
        fit(trained, data, 150)
        trained.eval()
        with torch.no_grad():
            video = trained.model(data.clip.video)[0]
        energy.append(edge_energy(video) / edge_energy(data.clip.video))
        error.append(psnr(video, data.clip.video).item())
    print(f"edge energy {energy}, PSNR {error}")
    assert energy[0] < 0.5  # what there is to gain
    assert energy[0] * 1.15 < energy[1] < 1
    assert error[1] > error[0] - 3


QUICK = [
    "--model.dim=16", "--model.depth=1", "--model.latent_dim=16", "--data.batch_size=8",
    f"--data.path={SAMPLE / 'easy'}", "--data.val_batches=1", "--optim.warmup=2",
    "--trainer.val_check_interval=3", "--trainer.log_every_n_steps=1", "--gan.weight=0.1",
    "--gan.discriminator.dim=4", "--gan.start_step=1", "--checkpoint_every=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 3 steps from the command line."""
    folder = tmp_path_factory.mktemp("gan")
    arguments = ["fit", "-c", "tokenizer/tiny", *QUICK, "--trainer.max_steps=3"]
    done = subprocess.run(
        [sys.executable, "-m", "workshop_lib.cli", *arguments, f"--runs={folder}", "--name=gan"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder / "gan/version_0"


def column(run: Path, name: str) -> dict[int, float]:
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get(name)]
    return {int(row["step"]): float(row[name]) for row in rows}


def test_a_run_records_both_and_exports_the_tokenizer(run: Path) -> None:
    assert column(run, "train/discriminator").keys() == {0, 1, 2}
    assert column(run, "train/generator").keys() == {1, 2}
    assert len(column(run, "val/psnr")) == 1
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["gan"]["weight"] == 0.1 and config["gan"]["discriminator"]["kind"] == "frames"
    checkpoint = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3 and len(checkpoint["optimizer_states"]) == 2
    tokenizer: Any = load_model(run / "model.safetensors")
    names = {name.removeprefix("model.") for name in checkpoint["state_dict"]}
    names = {name for name in names if not name.startswith("discriminator.")}
    assert set(tokenizer.state_dict()) == names


def test_a_run_folder_resumes_validates_and_exports(run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(run, again)
    assert main(["fit", str(again), "--trainer.max_steps=5"]) == 0
    assert column(again, "train/generator").keys() == {1, 2, 3, 4}
    assert torch.load(again / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 5
    assert main(["validate", str(again), f"--runs={tmp_path}"]) == 0
    assert main(["export", str(again), f"--out={tmp_path / 'a.safetensors'}"]) == 0
    assert isinstance(load_model(tmp_path / "a.safetensors"), Tokenizer)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--gan.wieght=1", "wieght"),
        ("--gan.discriminator.depths=1", "depths"),
        ("--gan.discriminator.kind=pixels", "kind"),
        ("--gan.weight=-1", "gan.weight must be above 0"),
        ("--gan.discriminator.dim=0", "gan.discriminator.dim must be 1 or more"),
        ("--trainer.accumulate_grad_batches=2", "raise data.batch_size"),
        ("--trainer.gradient_clip_val=1", "use optim.clip"),
        ("--compile=true", "gan.adaptive false"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(
    option: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fit", "-c", "tokenizer/tiny", *QUICK, option, f"--runs={tmp_path / 'runs'}"]
    try:
        status = main([*arguments, "--trainer.max_steps=1"])
    except SystemExit as end:
        status = int(end.code or 0)
    assert status != 0
    assert says in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()

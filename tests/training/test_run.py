"""`workshop fit` as people run it: what it leaves behind, resumes, and refuses."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.conftest import SAMPLE
from workshop_lib.models.files import load_model, read_metadata

QUICK = [
    "--model.dim=16", "--model.depth=1", "--model.latent_dim=16", "--data.batch_size=8",
    f"--data.path={SAMPLE / 'easy'}", "--data.val_batches=1", "--optim.warmup=2",
    "--trainer.val_check_interval=5", "--trainer.log_every_n_steps=1",
]  # fmt: skip


def workshop(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "workshop_lib.cli", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 10 steps of a very small tokenizer: (working folder, run folder)."""
    folder = tmp_path_factory.mktemp("fit")
    run = workshop(folder, "fit", "-c", "tokenizer/tiny", *QUICK, "--trainer.max_steps", 10)
    assert run.returncode == 0, run.stderr
    return folder, folder / "runs/tokenizer-tiny/version_0"


def losses(run_folder, column="train/loss"):
    with open(run_folder / "metrics.csv") as file:
        return {int(r["step"]): float(r[column]) for r in csv.DictReader(file) if r.get(column)}


def test_a_run_folder_holds_all_it_takes_to_make_it_again(trained):
    _, run = trained
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["family"] == "tokenizer" and config["model"]["dim"] == 16  # as overridden
    assert config["model"]["patch"] == 8 and config["optim"]["warmup"] == 2
    versions = json.loads((run / "versions.json").read_text())
    assert versions["packages"]["torch"].startswith(torch.__version__.split("+")[0])
    assert versions["parameters"] > 1000 and versions["recipe"].endswith("tiny.yaml")
    assert len(losses(run)) >= 9 and len(losses(run, "val/psnr")) == 2
    assert list(run.glob("events.out.tfevents*"))
    assert (run / "checkpoints/last.ckpt").exists()
    assert list((run / "previews").glob("*.png"))


def test_the_exported_model_is_the_averaged_one(trained):
    folder, run = trained
    model = load_model(run / "model.safetensors")
    stored = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert stored["global_step"] == 10
    for name, value in model.state_dict().items():
        assert torch.equal(stored["state_dict"][f"model.{name}"], value), name
    raw = stored["current_model_state"]
    assert any(
        not torch.equal(raw[f"model.{name}"], value) for name, value in model.state_dict().items()
    )
    again = workshop(folder, "export", run, "--out", "again.safetensors", "--dtype", "float16")
    assert again.returncode == 0, again.stderr
    # `run` was a whole path: nobody else has that folder.
    for file in (run / "model.safetensors", folder / "again.safetensors"):
        assert not Path(read_metadata(file)["run"]).is_absolute()
        assert read_metadata(file)["run"].endswith("tokenizer-tiny/version_0")
    half = load_model(folder / "again.safetensors")
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 2, 64, 64, 3), "uint8"))
    difference = (half.decode(half.encode(frames)).int() - model.reconstruct(frames).int()).abs()
    assert difference.float().mean() < 3


def test_validate_measures_the_run(trained):
    folder, run = trained
    result = workshop(folder, "validate", run)
    assert result.returncode == 0, result.stderr
    assert "val/psnr" in result.stdout
    shown = float(next(x for x in result.stdout.splitlines() if "val/psnr" in x).split()[-1])
    assert shown == pytest.approx(losses(run, "val/psnr")[9], abs=0.01)


def test_resuming_goes_on_where_it_stopped(tmp_path):
    options = ["fit", "-c", "tokenizer/tiny", *QUICK, "--optim.schedule", "constant"]
    unbroken = workshop(tmp_path, *options, "--trainer.max_steps", 8, "--name", "unbroken")
    assert unbroken.returncode == 0, unbroken.stderr
    workshop(tmp_path, *options, "--trainer.max_steps", 4, "--name", "a", "--checkpoint_every", 4)
    checkpoint = tmp_path / "runs/a/version_0/checkpoints/last.ckpt"
    # a checkpoint of the middle of a run: its weights are not yet replaced by the average
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 4
    resumed = workshop(
        tmp_path, *options, "--trainer.max_steps", 8, "--name", "b", "--ckpt_path", checkpoint
    )
    assert resumed.returncode == 0, resumed.stderr
    whole, rest = (losses(tmp_path / f"runs/{n}/version_0") for n in ("unbroken", "b"))
    for step in (5, 6, 7):
        assert rest[step] == pytest.approx(whole[step], rel=1e-5)


def test_going_on_with_a_finished_run_changes_nothing(trained, tmp_path):
    folder, run = trained
    again = tmp_path / "again"
    shutil.copytree(run, again)
    result = workshop(folder, "fit", again)
    assert result.returncode == 0, result.stderr
    assert losses(again) == losses(run) and losses(again, "val/psnr") == losses(run, "val/psnr")
    assert not list(again.glob("*.before"))


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--model.dimm", "3"], "model.dimm"),
        (["--model.dim", "wide"], "model.dim"),
        (["--model.patch", "6"], "model.patch"),
        (["--model.quantizer.levels", "[1]"], "levels"),
        (["--optim.lr", "-1"], "optim.lr"),
        (["--data.path", "nowhere"], "nowhere"),
        (["--data.batch_size", "7"], "batch_size"),
        (["--trainer.precision", "bf16-true"], "needs a GPU"),
    ],
)
def test_bad_values_are_refused_before_anything_starts(tmp_path, arguments, complaint):
    base = ["fit", "-c", "tokenizer/tiny", "--data.path", SAMPLE / "easy"]
    run = workshop(tmp_path, *base, *arguments)
    assert run.returncode in (1, 2)
    assert complaint in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "runs").exists()


def test_bad_recipes_are_named(tmp_path):
    (tmp_path / "broken.yaml").write_text("family: [")
    (tmp_path / "alien.yaml").write_text("family: alien\n")
    (tmp_path / "extra.yaml").write_text("family: tokenizer\nmodel:\n  depht: 2\n")
    for recipe, complaint in (
        ("tokenizer/huge", "tokenizer/tiny"),  # it lists those that there are
        ("broken.yaml", "not YAML"),
        ("alien.yaml", "unknown family 'alien'"),
        ("extra.yaml", "depht"),
    ):
        run = workshop(tmp_path, "fit", "-c", recipe)
        assert run.returncode in (1, 2) and complaint in run.stderr, run.stderr
        assert "Traceback" not in run.stderr

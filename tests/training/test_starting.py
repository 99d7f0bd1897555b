"""`workshop fit --start_from`: a new run with the weights of a trained model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.conftest import SAMPLE
from tests.shaking import shaken_weights
from workshop_lib.cli import main
from workshop_lib.errors import WorkshopError
from workshop_lib.models.diffusion import Diffusion
from workshop_lib.models.diffusion_config import DiffusionConfig
from workshop_lib.models.diffusion_unet import DiffusionUNet, DiffusionUNetConfig
from workshop_lib.models.dynamics import Dynamics
from workshop_lib.models.dynamics_config import DynamicsConfig
from workshop_lib.models.files import load_model, save_model
from workshop_lib.models.next_frame import NextFrame, NextFrameConfig
from workshop_lib.nn.dit import DiTConfig
from workshop_lib.training.starting import start_from
from workshop_lib.training.unseen_keys import seen_actions, settle_unseen

SMALL = NextFrameConfig(width=8, depth=1, middle=1, cond_dim=16)


@pytest.fixture
def predictor(tmp_path: Path) -> str:
    """The file of a next-frame predictor."""
    path = tmp_path / "predictor.safetensors"
    save_model(shaken_weights(NextFrame(SMALL)), "next_frame", path, {})
    return str(path)


def test_a_run_starts_where_the_other_model_ended(predictor, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    keys = ("width=8", "depth=1", "middle=1", "cond_dim=16", "noise=0")
    options = [
        "-c", "next_frame/tiny", *(f"--model.{key}" for key in keys), "--preview_every=0",
        f"--data.path={SAMPLE / 'easy'}", "--data.batch_size=8", "--data.val_batches=1",
        "--trainer.max_steps=1", "--optim.lr=1e-9", "--optim.ema=0", "--start_from", predictor,
    ]  # fmt: skip
    assert main(["fit", *options]) == 0
    began = load_model("runs/next_frame-tiny/version_0/model.safetensors").state_dict()
    assert int(began.pop("steps")) <= 1  # none is counted where nothing is unrolled
    other = load_model(predictor)
    settle_unseen(other, seen_actions(SAMPLE / "easy"))  # as every run does in the end
    for name, value in began.items():
        torch.testing.assert_close(value, other.state_dict()[name])

    Path(predictor).rename(tmp_path / "moved")  # a run that goes on has its own weights
    assert main(["fit", "runs/next_frame-tiny/version_0", "--trainer.max_steps=2"]) == 0
    Path(tmp_path / "moved").rename(predictor)

    assert main(["fit", *options, "--model.width=16"]) == 1  # refused, and no run is left behind
    assert [run.name for run in Path("runs/next_frame-tiny").iterdir()] == ["version_0"]


@pytest.mark.parametrize(
    "model",
    [
        DiffusionUNet(DiffusionUNetConfig(mean=SMALL, width=8, depth=1, middle=1, steps=1)),
        Diffusion(DiffusionConfig(net=DiTConfig(dim=8, depth=1, heads=1), mean=SMALL, steps=1)),
    ],
)
def test_a_diffusion_model_starts_with_the_pictures_of_a_predictor(model, predictor) -> None:
    start_from(model, predictor)
    frames = torch.randint(0, 256, (2, 4, 64, 64, 3), dtype=torch.uint8)
    actions = torch.randint(0, 15, (2, 6))
    expected = load_model(predictor).predict(frames, actions)
    dream = model.eval().predict(frames, actions)
    assert (dream.int() - expected.int()).abs().max() <= 1


def test_what_does_not_fit_is_refused(predictor) -> None:
    wider = DiffusionUNetConfig(mean=NextFrameConfig(width=16), width=8)
    with pytest.raises(WorkshopError, match=r"another shape of model \(actions.0.weight is \(16"):
        start_from(DiffusionUNet(wider), predictor)
    with pytest.raises(WorkshopError, match="holds a Tokenizer, to be trained is a NextFrame"):
        start_from(NextFrame(SMALL), "tokenizer-tiny")
    alone = DiffusionUNetConfig(mean=SMALL, width=8, with_mean=False)
    with pytest.raises(WorkshopError, match=r"model\.mean is off"):
        start_from(DiffusionUNet(alone), predictor)


def test_a_palette_begins_anew_or_stays_behind(tmp_path) -> None:
    """What is counted in training is no part of a model's shape."""
    shape = dict(grid=(2, 2), num_codes=4, dim=8, depth=1, heads=1, window=2)
    with_it, without = (Dynamics(DynamicsConfig(**shape, palette=p)) for p in (1.0, 0.0))
    shaken_weights(with_it)
    shaken_weights(without)
    for found, begun in ((with_it, without), (without, with_it)):
        path = tmp_path / "d.safetensors"
        save_model(found, "dynamics", path, {})
        expected = load_model(path).state_dict()
        start_from(begun, str(path))
        for name, value in begun.state_dict().items():
            torch.testing.assert_close(value, expected.get(name, value))
    again = Dynamics(DynamicsConfig(**shape, palette=2.0))
    with_it.palette.shares.copy_(torch.tensor([0.5, 0.5, 0, 0]))
    save_model(with_it, "dynamics", path, {})
    start_from(again, str(path))
    assert torch.equal(again.palette.shares, with_it.palette.shares)

"""How well ends are foreseen: counted right, and well foreseen by the shipped model."""

import json

import pytest
import torch

from workshop_lib.cli import main
from workshop_lib.evaluation.termination import measure
from workshop_lib.models.termination import ON, OVER, REWARDED


def test_ends_alarms_and_kinds_are_counted() -> None:
    ended = torch.tensor([ON, ON, REWARDED, ON, OVER, ON, ON, ON, ON, OVER])
    said = torch.tensor([ON, OVER, REWARDED, ON, REWARDED, ON, REWARDED, ON, ON, ON])
    left = torch.tensor([2, 1, 0, 1, 0, 50, 40, 2, 1, 0])
    report = measure(said, ended, left)
    assert (report.frames, report.ends, report.real) == (10, 3, 150)
    assert (report.coins.mean, report.deaths.mean, report.kind.mean) == (1, 0.5, 0.5)
    assert report.false == 100 and report.soon.mean == 0.5  # one a step early, one far from an end
    assert "150.0 ends in 500" in report.table()


def test_the_shipped_model_foresees_the_coin(dataset, tmp_path) -> None:
    """On levels of easy CoinRun recorded for this test: it learned on hard ones."""
    options = ["termination-tiny", f"--data={dataset}", "--split=train", f"--out={tmp_path}"]
    assert main(["evaluate", "termination", *options]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["ends"] > 50 and report["real"] > 3
    assert report["coins"]["mean"] > 0.85 and report["deaths"]["mean"] > 0.4
    assert report["kind"]["mean"] > 0.9 and report["false"] < report["real"] / 2


def test_the_recipe_learns_what_a_coin_is_from_a_small_recording(
    dataset, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["-c", "termination/tiny", f"--data.path={dataset}", "--data.batch_size=512"]
    steps = [
        "--trainer.max_steps=200",
        "--optim.warmup=10",
        "--optim.ema=0.9",
        "--data.val_batches=1",
    ]
    assert main(["fit", *options, *steps, "--preview_every=0"]) == 0
    file = "runs/termination-tiny/version_0/model.safetensors"
    seen = [f"--data={dataset}", "--split=train", "--out=report"]
    assert main(["evaluate", "termination", file, *seen]) == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["coins"]["mean"] > 0.8 and report["kind"]["mean"] > 0.8
    assert report["false"] < report["real"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["termination-tiny", "--data=data/sample/easy"], "nobody recorded how its levels ended"),
        (["lam-tiny", "--data=data/sample/easy"], "holds a latent_action, not a termination"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, said, capsys) -> None:
    assert main(["evaluate", "termination", *options]) == 1
    assert said in capsys.readouterr().err

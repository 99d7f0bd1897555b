"""One recipe on one process, on two, and on two machines."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.distributed.running import (
    NEXT_FRAME,
    TOKENIZER,
    finish,
    free_port,
    logged,
    start,
    train,
    wait_for,
    workers,
)
from workshop_lib.models.files import load_model
from workshop_lib.training.stopping import NOT_FINISHED

STEPS = ("--trainer.max_steps=6", "--trainer.val_check_interval=4")


def test_two_machines_train_as_one_process_does(tmp_path: Path) -> None:
    """Two torchrun agents with a process each, which takes its half of a batch in two parts."""
    train(tmp_path, *TOKENIZER, *STEPS, "--name=one")
    meeting = ("--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", "--rdzv_id=test")
    endpoint = f"--rdzv_endpoint=localhost:{free_port()}"
    machines = [
        start(
            tmp_path, *TOKENIZER, *STEPS, "--name=two", "--data.micro_batch=2",
            torchrun=(*meeting, endpoint),
        )
        for _ in range(2)
    ]  # fmt: skip
    said = finish(*machines)
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert sum("trained 6 steps" in text for text in said) == 1

    one, two = (tmp_path / "runs" / name / "version_0" for name in ("one", "two"))
    assert [path.name for path in two.parent.iterdir()] == ["version_0"]
    expected, got = logged(one), logged(two)
    assert expected.keys() == got.keys()
    for key in expected:
        if key[0] in ("train/loss", "val/loss", "val/psnr"):
            assert float(got[key]) == pytest.approx(float(expected[key]), rel=1e-5), key
    assert sum(name == "train/loss" for name, _ in got) == 6 and ("val/loss", 3) in got
    config = yaml.safe_load((two / "config.yaml").read_text())
    assert config["data"]["batch_size"] == 8 and config["trainer"]["devices"] == 1
    weights = [load_model(run / "model.safetensors").state_dict() for run in (one, two)]
    for name, value in weights[0].items():
        assert np.allclose(value, weights[1][name], atol=1e-4), name


def running_pair(folder: Path) -> subprocess.Popen:
    """A long run of two processes, stopped neither by steps nor by time; some steps in."""
    run = start(
        folder, *NEXT_FRAME, "--trainer.devices=2", "--trainer.max_steps=100000",
        "--checkpoint_every=3", "--trainer.val_check_interval=100000", "--name=pair",
    )  # fmt: skip
    wait_for((folder / "runs/pair/version_0/checkpoints/step-0000003.ckpt").exists, run)
    return run


@pytest.mark.slow
def test_a_process_that_dies_ends_the_run_within_a_minute(tmp_path: Path) -> None:
    run = running_pair(tmp_path)
    pids = workers(run)
    assert sorted(pids) == [0, 1]
    os.kill(pids[1], signal.SIGKILL)
    began = time.monotonic()
    (said,) = finish(run)
    assert time.monotonic() - began < 60
    assert run.returncode == 1
    assert "process 1 of 2 died (SIGKILL)" in said, said
    assert "process 0 of 2" in said and "another process died" in said


@pytest.mark.slow
def test_sigterm_saves_all_at_one_step_and_the_run_goes_on(tmp_path: Path) -> None:
    run = running_pair(tmp_path)
    pids = workers(run)
    os.kill(pids[1], signal.SIGTERM)  # only one of them is told
    (said,) = finish(run)
    assert run.returncode == NOT_FINISHED, said
    (step,) = map(int, re.findall(r"saved after step (\d+); `workshop fit runs/pair", said))
    folder = tmp_path / "runs/pair/version_0"
    assert (folder / f"checkpoints/step-{step:07d}.ckpt").is_file()
    assert not (folder / "model.safetensors").exists()
    # on one process now, and to its end
    train(tmp_path, folder.relative_to(tmp_path), f"--trainer.max_steps={step + 2}",
          "--trainer.devices=1")  # fmt: skip
    steps = [n for name, n in logged(folder) if name == "train/loss"]
    assert steps == list(range(step + 2))
    assert (folder / "model.safetensors").is_file()

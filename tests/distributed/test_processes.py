"""One recipe on one process, on two, and on two machines."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    train(folder, *TOKENIZER, *STEPS, "--name=one")
    return folder / "runs/one/version_0"


@pytest.mark.parametrize("by", ["torchrun", "workshop", "slurm"])
def test_two_machines_train_as_one_process_does(by: str, alone: Path, tmp_path: Path) -> None:
    """Two agents with a process each, which takes its half of a batch in two parts."""
    port = str(free_port())
    meeting = ("--nnodes=2", "--nproc_per_node=1", "--rdzv_backend=c10d", "--rdzv_id=test")
    ways: dict[str, dict[str, Any]] = {
        "torchrun": {"torchrun": (*meeting, f"--rdzv_endpoint=localhost:{port}")},
        "workshop": {"env": {"MASTER_ADDR": "localhost", "MASTER_PORT": port}},
        "slurm": {"env": {"SLURM_NODELIST": "localhost", "MASTER_PORT": port}},
    }
    asked = () if by == "torchrun" else ("--trainer.num_nodes=2", "--trainer.devices=1")
    options = (*TOKENIZER, *STEPS, "--name=two", "--data.micro_batch=2", *asked)
    machines = [start(tmp_path, *options, **ways[by]) for _ in range(2)]
    said = finish(*machines)
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert sum("trained 6 steps" in text for text in said) == 1

    two = tmp_path / "runs/two/version_0"
    assert [path.name for path in two.parent.iterdir()] == ["version_0"]
    expected, got = logged(alone), logged(two)
    assert expected.keys() == got.keys()
    for key in expected:
        if key[0] in ("train/loss", "val/loss", "val/psnr"):
            assert float(got[key]) == pytest.approx(float(expected[key]), rel=1e-5), key
    assert sum(name == "train/loss" for name, _ in got) == 6 and ("val/loss", 3) in got
    config = yaml.safe_load((two / "config.yaml").read_text())
    assert config["data"]["batch_size"] == 8 and int(config["trainer"]["devices"]) == 1
    weights = [load_model(run / "model.safetensors").state_dict() for run in (alone, two)]
    for name, value in weights[0].items():
        assert np.allclose(value, weights[1][name], atol=1e-4), name


def test_machines_that_do_not_know_where_to_meet_are_told(tmp_path: Path) -> None:
    (said,) = finish(run := start(tmp_path, *TOKENIZER, "--trainer.num_nodes=2"))
    assert run.returncode == 1
    assert said.startswith("workshop fit: trainer.num_nodes 2: on each machine, set MASTER_ADDR")


def running_pair(folder: Path) -> subprocess.Popen:
    """A long run of two processes, stopped neither by steps nor by time; some steps in."""
    run = start(
        folder, *NEXT_FRAME, "--trainer.devices=2", "--trainer.max_steps=100000",
        "--checkpoint_every=3", "--trainer.val_check_interval=100000", "--name=pair",
    )  # fmt: skip
    wait_for((folder / "runs/pair/version_0/checkpoints/step-0000003.ckpt").exists, run)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("sign", ["SIGKILL", "SIGABRT"])
def test_a_process_that_dies_ends_the_run_within_a_minute(sign, tmp_path: Path) -> None:
    """One whose own code aborts it also says where it was."""
    run = running_pair(tmp_path)
    pids = workers(run)
    assert sorted(pids) == [0, 1]
    os.kill(pids[1], signal.Signals[sign])
    began = time.monotonic()
    (said,) = finish(run)
    assert time.monotonic() - began < 60
    assert run.returncode == 1
    assert f"process 1 of 2 died ({sign})" in said, said
    assert ("Fatal Python error: Aborted" in said and "run.py" in said) == (sign == "SIGABRT")
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

"""A run that was killed and goes on is, bit by bit, the run that was not."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
import torch

from tests.distributed.running import NEXT_FRAME, finish, logged, start, train, wait_for
from workshop_lib.training.checkpoints import newest_whole
from workshop_lib.training.resume import KeptMetrics, new_run_folder, newest_run_folder
from workshop_lib.training.stopping import NOT_FINISHED

# Checkpoints at 4, 8, ...; validation at 6 and 12: once together, once between them.
RUN = [*NEXT_FRAME, "--checkpoint_every=4", "--trainer.val_check_interval=6",
       "--trainer.max_steps=13"]  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    train(folder, *RUN, "--name=run")
    return folder / "runs/run/version_0"


def stored(run: Path) -> dict:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


def assert_same(one: object, other: object) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


def test_killed_twice_with_a_torn_checkpoint_it_is_the_same_run(
    unbroken: Path, tmp_path: Path
) -> None:
    run = tmp_path / "runs/run/version_0"
    first = start(tmp_path, *RUN, "--name=run")
    wait_for((run / "checkpoints/step-0000008.ckpt").exists, first)
    first.kill()
    finish(first)
    # The newest is torn, as by a full disk; and it is known by both of its names.
    for name in ("step-0000008.ckpt", "last.ckpt"):
        whole = (run / "checkpoints" / name).read_bytes()
        (run / "checkpoints" / name).unlink()
        (run / "checkpoints" / name).write_bytes(whole[: len(whole) // 2])

    second = start(tmp_path, "runs/run/version_0")
    wait_for((run / "checkpoints/step-0000012.ckpt").exists, second)
    second.send_signal(signal.SIGKILL)
    said = finish(second)[0]
    assert "step-0000008.ckpt: torn, so the one before it is used" in said

    said = train(tmp_path, *RUN, "--name=run", "--resume")
    assert "trained 13 steps" in said
    assert [path.name for path in run.parent.iterdir()] == ["version_0"]
    assert logged(run) == logged(unbroken)  # every loss, rate and PSNR, to the last digit
    mine, theirs = stored(run), stored(unbroken)
    for part in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers",
                 "averaging_state", "global_step"):  # fmt: skip
        assert_same(mine[part], theirs[part])


def test_only_the_last_checkpoints_are_kept(unbroken: Path) -> None:
    names = sorted(path.name for path in (unbroken / "checkpoints").iterdir())
    assert names == ["last.ckpt", *(f"step-{n:07d}.ckpt" for n in (8, 12, 13))]
    assert stored(unbroken)["global_step"] == 13


def test_max_hours_saves_and_leaves(tmp_path: Path) -> None:
    run = start(tmp_path, *RUN, "--max_hours=0.000001", "--name=run")
    (said,) = finish(run)
    assert run.returncode == NOT_FINISHED, said
    assert "max_hours is over: saved after step 1; `workshop fit runs/run/version_0`" in said
    assert "Traceback" not in said
    saved = newest_whole(tmp_path / "runs/run/version_0")
    assert saved is not None and re.fullmatch(r"step-0+1.ckpt", saved.name)
    assert newest_run_folder(tmp_path / "runs", "run") == tmp_path / "runs/run/version_0"


def test_folders_are_dealt_once(tmp_path: Path) -> None:
    assert [new_run_folder(tmp_path, "a").name for _ in range(3)] == [
        f"version_{n}" for n in range(3)
    ]
    assert newest_run_folder(tmp_path, "a") is None  # none of them has a checkpoint
    assert newest_run_folder(tmp_path, "b") is None


def test_metrics_survive_a_crash_before_the_new_file_is_there(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,0.5\n1,0.25\n")
    KeptMetrics(tmp_path)
    (tmp_path / "metrics.csv").unlink()  # the logger begins anew; then the machine goes down
    rows = KeptMetrics(tmp_path).rows
    assert rows == [{"step": "0", "train/loss": "0.5"}, {"step": "1", "train/loss": "0.25"}]

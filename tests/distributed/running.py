"""Starts `workshop fit` on small data, in one process or several, and reads what it wrote."""

from __future__ import annotations

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import SAMPLE

# Chance (noise and short prompts) is in every step of this one, and its validation is short.
NEXT_FRAME = [
    "-c", "next_frame/tiny", "--model.width=8", "--data.length=6", "--data.batch_size=8",
    f"--data.path={SAMPLE / 'easy'}", "--data.val_batches=1", "--optim.warmup=2",
    "--trainer.log_every_n_steps=1", "--preview_every=0",
]  # fmt: skip
# Without chance: what it computes does not depend on the number of processes.
TOKENIZER = [
    "-c", "tokenizer/tiny", "--model.dim=16", "--model.depth=1", "--model.latent_dim=16",
    "--data.batch_size=8", f"--data.path={SAMPLE / 'easy'}", "--data.val_batches=1",
    "--optim.warmup=2", "--trainer.log_every_n_steps=1", "--preview_every=0",
]  # fmt: skip
SECONDS = 150  # for a run, on a busy machine
FIT = ("-m", "workshop_lib", "fit")
# The same, after which each process leaves its weights behind.
KEEPING = (str(Path(__file__).parent / "keeping.py"),)


def start(
    folder: Path,
    *arguments: object,
    torchrun: tuple[str, ...] = (),
    program: tuple[str, ...] = FIT,
    env: dict[str, str] | None = None,
) -> subprocess.Popen:
    """`workshop fit ARGUMENTS` in a folder, in a process group of its own."""
    before = ["-m", "torch.distributed.run", *torchrun] if torchrun else []
    command = [sys.executable, *before, *program, *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | (env or {}),
        start_new_session=True,
    )


def finish(*runs: subprocess.Popen) -> list[str]:
    """Waits for runs; returns what they said. All that they started is gone afterwards."""
    try:
        return [run.communicate(timeout=SECONDS)[0] for run in runs]
    finally:
        for run in runs:
            if run.poll() is None:
                os.killpg(run.pid, signal.SIGKILL)
                run.wait()


def train(folder: Path, *arguments: object, **options: tuple[str, ...]) -> str:
    """Runs to the end, which must be a good one; returns what it said."""
    run = start(folder, *arguments, **options)
    (said,) = finish(run)
    assert run.returncode == 0, said
    return said


def wait_for(condition: Callable[[], object], run: subprocess.Popen) -> None:
    """Until the condition holds, while the run goes on."""
    end = time.monotonic() + SECONDS
    while not condition():
        if run.poll() is not None or time.monotonic() > end:
            raise AssertionError(finish(run)[0])
        time.sleep(0.005)


def workers(run: subprocess.Popen) -> dict[int, int]:
    """The process id of every rank that torchrun started."""
    import psutil

    found = {}
    for child in psutil.Process(run.pid).children(recursive=True):
        try:
            rank = child.environ().get("RANK")
        except psutil.Error:
            continue
        if rank is not None:
            found[int(rank)] = child.pid
    return found


def logged(run_folder: Path) -> dict[tuple[str, int], str]:
    """All that was logged, as written, by name and step; but speeds."""
    with open(run_folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        (name, int(row["step"])): value
        for row in rows
        for name, value in row.items()
        if value and name != "step" and not name.startswith("speed/")
    }


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]

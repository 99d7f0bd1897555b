"""What makes a resumed run the same as an unbroken one, bit by bit, and where it is written.

Weights, averaged weights, optimizer and schedule are in the checkpoint; the place in the data is
the number of steps taken (data/clips.py). What is left is chance, and the record of the run.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger

from workshop_lib.training.checkpoints import newest_whole

METRICS = "metrics.csv"


class StepSeeds(Callback):
    """Chance as a function of (seed, step, part, process): nothing of it has to be saved.

    Masks, noise and dropout of step n are the same whether the run came there in one go or not.
    part: of the global batch, where it is trained on in parts. In validation every pass over the
    set draws the same.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: Any, batch: Any, batch_idx: int
    ) -> None:
        # Of a run that had ended and goes on, Lightning logs each step as the one after it.
        trainer.fit_loop.epoch_loop._batches_that_stepped = trainer.global_step
        part = batch_idx % trainer.accumulate_grad_batches
        self._seed(0, trainer.global_step, part, trainer.global_rank)

    def on_validation_batch_start(
        self, trainer: lightning.Trainer, module: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        self._seed(1, batch_idx, 0, trainer.global_rank)

    def _seed(self, *place: int) -> None:
        mixed = np.random.SeedSequence([self.seed, *place]).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(mixed))


class KeptMetrics(Callback):
    """The rows of metrics.csv that an interrupted run wrote before its checkpoint.

    The logger begins a new file: made before it, this holds the old rows and puts them first. What
    came after the checkpoint is left out, for it will come again.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / METRICS
        rows: list[dict[str, str]] = []
        for kept in (path.with_suffix(".csv.before"), path):
            if kept.is_file():
                with open(kept, newline="") as file:
                    rows += csv.DictReader(file)
        self.rows, self._kept = rows, path.with_suffix(".csv.before")
        if rows:  # until the new file has them
            columns = sorted({name for row in rows for name in row})
            with open(self._kept, "w", newline="") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(rows)

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):
                steps = range(trainer.global_step)
                logger.experiment.metrics[:0] = [
                    {name: value for name, value in row.items() if value}
                    for row in self.rows
                    if int(row["step"]) in steps
                ]
                logger.save()
        self._kept.unlink(missing_ok=True)

    def teardown(self, *_: Any, **__: Any) -> None:
        """Of a run that had nothing left to do, or never got to it, all rows stay."""
        path = self._kept.with_name(METRICS)
        if self._kept.is_file() and not path.is_file():
            self._kept.replace(path)


def new_run_folder(runs: Path, name: str) -> Path:
    """Makes runs/NAME/version_N with the next free N; two runs at once get one each."""
    while True:
        taken = [run_number(folder) for folder in (runs / name).glob("version_*")]
        folder = runs / name / f"version_{max(taken, default=-1) + 1}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder


def newest_run_folder(runs: Path, name: str) -> Path | None:
    """The newest run of that name that has a checkpoint; None if there is none."""
    for folder in sorted((runs / name).glob("version_*"), key=run_number, reverse=True):
        if newest_whole(folder) is not None:
            return folder
    return None


def run_number(folder: Path) -> int:
    number = folder.name.removeprefix("version_")
    return int(number) if number.isdigit() else -1

"""Checkpoints that are whole or not there, and the newest whole one."""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Checkpoint

from workshop_lib.errors import WorkshopError

FOLDER = "checkpoints"
LAST = "last.ckpt"


class Checkpoints(Checkpoint):
    """Saves every `every` steps and at the end; keeps the last `keep`.

    step-0000500.ckpt is written beside its place and then moved there, so a file of that name is
    whole, whenever the power goes. last.ckpt is another name of the newest.
    """

    def __init__(self, every: int, keep: int = 3) -> None:
        if every < 1 or keep < 1:
            raise WorkshopError(
                f"checkpoint_every and keep_checkpoints must be 1 or more, got {every} and {keep}"
            )
        self.every, self.keep = every, keep
        self._saved = -1
        self._waiting: Path | None = None  # written, but not yet in its place

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._saved = trainer.global_step

    def on_train_batch_start(self, *_: Any) -> None:
        self._publish()

    def on_validation_start(self, *_: Any) -> None:
        self._publish()

    def on_exception(self, *_: Any) -> None:
        self._publish()

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if self._due(trainer) and not validates_now(trainer):
            self.save(trainer)

    def on_validation_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        # Saved before it, a run that is resumed would not validate at this step again.
        if self._due(trainer):
            self.save(trainer)

    def on_train_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.save(trainer)
        self._publish()

    def _due(self, trainer: lightning.Trainer) -> bool:
        whole = not trainer.fit_loop._should_accumulate()
        return whole and trainer.global_step > 0 and trainer.global_step % self.every == 0

    def save(self, trainer: lightning.Trainer) -> None:
        """Saves this step, unless that is done. All processes call it together."""
        run = run_folder(trainer)
        if trainer.global_step == self._saved or run is None:
            return
        self._saved = trainer.global_step
        folder = run / FOLDER
        path = folder / f"step-{trainer.global_step:07d}.ckpt"
        # In the same folder: moving a file is all or nothing only within a file system.
        part = path.with_suffix(".part")
        if trainer.is_global_zero:
            folder.mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            self._waiting = path

    def _publish(self) -> None:
        """Puts what was saved in its place, now that what was logged of that step is written, too:
        whoever goes on from it finds both."""
        path, self._waiting = self._waiting, None
        if path is not None:
            put_in_place(path.with_suffix(".part"), path)
            for old in steps_saved(path.parent)[self.keep :]:
                old.unlink()


def run_folder(trainer: lightning.Trainer) -> Path | None:
    """Where the run is written. (trainer.log_dir broadcasts: a process asking alone would hang.)"""
    log_dir = trainer.loggers[0].log_dir if trainer.loggers else None
    return None if log_dir is None else Path(log_dir)


def validates_now(trainer: lightning.Trainer) -> bool:
    """Whether validation follows this training step."""
    batches = trainer.global_step * trainer.accumulate_grad_batches
    interval = trainer.val_check_batch or 0
    return trainer.enable_validation and 0 < interval < float("inf") and batches % interval == 0


def put_in_place(part: Path, path: Path) -> None:
    """Moves a complete file to its name and makes it the last one, too."""
    with open(part, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    link = path.with_name("last.part")
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, link)
    os.replace(link, path.with_name(LAST))


def steps_saved(folder: Path) -> list[Path]:
    """The numbered checkpoints of a folder, newest first."""
    found = [p for p in folder.glob("step-*.ckpt") if re.fullmatch(r"step-\d+", p.stem)]
    return sorted(found, key=lambda p: int(p.stem.removeprefix("step-")), reverse=True)


def is_whole(path: Path) -> bool:
    """Whether a checkpoint can be read to its end: a zip archive with a checksum of each part."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint of a run folder that is not torn; None if there is none."""
    candidates = [*steps_saved(folder / FOLDER), folder / FOLDER / LAST]
    for path in candidates:
        if path.is_file():
            if is_whole(path):
                return path
            print(f"{path}: torn, so the one before it is used")
    return None


def checkpoint_of(folder: Path) -> Path:
    """The newest whole checkpoint. Raises WorkshopError if there is none."""
    found = newest_whole(folder)
    if found is None:
        raise WorkshopError(f"{folder}: has no whole checkpoint; begin again with -c RECIPE")
    return found

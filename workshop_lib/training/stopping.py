"""Stopping a run from outside, at the same step on all processes, with nothing lost."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import lightning
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback

from workshop_lib.errors import WorkshopError
from workshop_lib.training.checkpoints import run_folder, validates_now

# "Temporary failure, try again" (BSD's sysexits.h): saved, but not finished.
NOT_FINISHED = 75


class StoppedError(Exception):
    """The run was asked to stop, and has saved itself."""


class Stopping(Callback):
    """Saves and leaves on SIGTERM, on Ctrl+C and after so many hours.

    All processes must leave after the same step, or those that stay wait for the others. So in
    every step each says whether it wants to stop, and reads in the next step what the others said:
    nobody waits for an answer. A process that died cannot answer, and is noticed that way.

    hours: stop after so many; None for no limit.

    Raises StoppedError in training, when the run is saved; WorkshopError if another process died.
    """

    def __init__(self, hours: float | None = None) -> None:
        if hours is not None and hours <= 0:
            raise WorkshopError(f"max_hours must be above 0, got {hours}")
        self.deadline = None if hours is None else time.monotonic() + 3600 * hours
        self.reason = ""
        self._leaving = ""
        self._asked: Any = None  # the question under way, and the tensor that will hold the answer
        self._group: Any = None
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if dist.is_available() and dist.is_initialized():
            self._group = dist.new_group(backend="gloo")
            # Lightning asks, too, in a way that waits for the GPU before every batch.
            loop: Any = trainer.fit_loop.epoch_loop
            loop._broadcast_sigterm_tensor = lambda: None
        if threading.current_thread() is threading.main_thread():
            # In place of Lightning's own handlers, which it puts back to the first ones at the end.
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._on_signal)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if self.deadline is not None and time.monotonic() > self.deadline:
            self.reason = self.reason or "max_hours is over"
        # Between the parts of a global batch there is nothing to save.
        if trainer.fit_loop._should_accumulate() or not self._all_agree(trainer):
            return
        if validates_now(trainer) or trainer.global_step >= trainer.max_steps > 0:
            return  # then after the next step
        saving: Any = trainer.checkpoint_callback
        saving.save(trainer)
        reason = self.reason or "another process was asked to stop"
        self._leaving = f"{reason}: saved after step {trainer.global_step}"

    def on_train_batch_start(self, *_: Any) -> None:
        """Leaves only now, when what was logged of the last step is written."""
        if self._leaving:
            raise StoppedError(self._leaving)

    def on_train_end(self, *_: Any) -> None:
        self._restore()

    def on_exception(self, trainer: lightning.Trainer, module: Any, exception: Any) -> None:
        # The first of several processes that leaves makes torchrun tell the others to: they are
        # about to anyway, and shall still say why.
        if self._group is None:
            self._restore()
        else:  # Lightning's, which it would put back now
            trainer._signal_connector._original_handlers.clear()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _on_signal(self, number: int, _: Any) -> None:
        if number == signal.SIGINT:
            if self.reason:  # the second Ctrl+C: at once
                raise KeyboardInterrupt
            print("\nstopping after this step; Ctrl+C once more to leave without saving")
        self.reason = f"received {signal.Signals(number).name}"

    def _all_agree(self, trainer: lightning.Trainer) -> bool:
        """Whether somebody wanted to stop one step ago; asks again for the next time."""
        if self._group is None:
            return bool(self.reason)
        stop = False
        try:
            if self._asked is not None:
                work, answer = self._asked
                work.wait()
                stop = bool(answer.item())
            answer = torch.tensor([float(bool(self.reason))])
            work = dist.all_reduce(answer, dist.ReduceOp.MAX, self._group, async_op=True)
            self._asked = work, answer
        except RuntimeError as error:
            raise lost(trainer) from error
        return stop


def lost(trainer: lightning.Trainer) -> WorkshopError:
    """What to say when another process does not answer."""
    return WorkshopError(
        f"process {trainer.global_rank} of {trainer.world_size}: another process died or hangs "
        f"(what it said is above); `workshop fit {run_folder(trainer)}` goes on from the "
        f"last checkpoint"
    )

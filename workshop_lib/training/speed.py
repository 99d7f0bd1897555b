"""How fast a run is: frames and tokens a second, FLOP/s, the share of the device's peak, memory."""

from __future__ import annotations

import copy
import time
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from workshop_lib.data.clip import Clip
from workshop_lib.training.sharded import whole_model

# Dense bf16 TFLOP/s by a part of the device's name, from NVIDIA's data sheets; the first that fits.
PEAKS = {
    "H200": 989,
    "H100 PCIe": 756,
    "H100": 989,
    "GH200": 989,
    "B200": 2250,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10G": 70,
    "A10": 125,
    "4090": 165,
    "3090": 71,
}


def count_flops(model: nn.Module, clip: Clip) -> float:
    """Floating point operations of one training step per clip: forward and backward.

    Counted by torch (a multiplication and an addition are two) over a copy of the model, so that
    the model and its gradients stay as they are. Matrix products, convolutions and attention
    count; all else is small beside them.

    clip: two clips are enough, for all that counts grows with their number.
    """
    twin = copy.deepcopy(model).train()
    for parameter in twin.parameters():
        parameter.grad = None
    with torch.random.fork_rng(), FlopCounterMode(display=False) as counter:
        twin.loss(clip)[0].backward()  # type: ignore[operator]
    return counter.get_total_flops() / len(clip)


class Speed(Callback):
    """Logs, every `every` steps and over all processes together:

    speed/frames_per_s and, for models with tokens, speed/tokens_per_s; speed/tflops, TFLOP/s by
    `count_flops` (without a discriminator's share, and without what activation checkpointing
    computes twice); speed/utilization, the share of the devices' bf16 peak (0 to 1) where that is
    known; speed/memory_gb, the most that one GPU had allocated. Time in validation and in saving
    does not count.
    """

    def __init__(self, every: int) -> None:
        self._flops: float | None = None
        self.every = every
        self._clips = self._frames = 0
        self._since: float | None = None
        self._seconds = 0.0

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: Any, batch: Clip, *_: Any
    ) -> None:
        if self._flops is None:
            self._flops = count_flops(whole_model(trainer), batch[:2])
        if self._since is None:
            self._since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Clip, *_: Any
    ) -> None:
        self._clips += len(batch)
        self._frames += batch.frames.shape[0] * batch.frames.shape[1]
        if trainer.fit_loop._should_accumulate():
            return
        if trainer.global_step % self.every == 0:
            self._pause(module)
            module.log_dict(self._figures(trainer, module))
            self._clips, self._frames, self._seconds = 0, 0, 0.0

    def on_validation_start(self, trainer: lightning.Trainer, module: Any) -> None:
        self._pause(module)

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: Any) -> None:
        self._pause(module)

    def _pause(self, module: Any) -> None:
        """Ends the stretch of training that is being timed; the next batch begins another."""
        if self._since is None:
            return
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        self._seconds += time.perf_counter() - self._since
        self._since = None

    def _figures(self, trainer: lightning.Trainer, module: Any) -> dict[str, float]:
        seconds, processes = max(self._seconds, 1e-9), trainer.world_size
        frames = self._frames * processes / seconds
        tflops = (self._flops or 0) * self._clips * processes / seconds / 1e12
        figures = {"frames_per_s": frames, "tflops": tflops}
        tokens = tokens_per_frame(module.model)
        if tokens:
            figures["tokens_per_s"] = tokens * frames
        if module.device.type == "cuda":
            peak = peak_tflops(torch.cuda.get_device_name())
            if peak:
                figures["utilization"] = tflops / (peak * processes)
            figures["memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
        return {f"speed/{name}": value for name, value in figures.items()}


def tokens_per_frame(model: nn.Module) -> float:
    """How many tokens a frame is for this model; 0 where it has none."""
    said: Any = getattr(model, "tokens_per_frame", None)
    grid: Any = getattr(getattr(model, "config", None), "grid", None)
    return said or (grid[0] * grid[1] if grid else 0)


def peak_tflops(device: str) -> float | None:
    """The device's dense bf16 peak; None where it is not known."""
    return next((float(peak) for name, peak in PEAKS.items() if name in device), None)

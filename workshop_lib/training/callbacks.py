"""What happens beside training: averaged weights, a progress bar, pictures, a record of the run."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, WeightAveraging
from torch import Tensor

from workshop_lib.data.clip import Clip
from workshop_lib.training.checkpoints import run_folder
from workshop_lib.training.optim import ema_decay
from workshop_lib.training.sharded import ShardedStrategy, deal_out, put_together, whole_model


class AveragedWeights(WeightAveraging):
    """Exponential moving average of the weights, used for validation, checkpoints and export.

    Lightning's WeightAveraging with a decay that starts low (Tarvainen and Valpola, 2017), so that
    the average of a short run is not full of its first, untrained weights. Buffers (codebook
    statistics) are copied, not averaged.
    """

    def __init__(self, decay: float) -> None:
        def average(averaged: Any, current: Any, updates: Tensor | int) -> None:
            # Not `updates`: it is on the GPU, which would have to be waited for.
            done = updates if self._average_model is None else self._average_model.n_averaged
            weight = 1 - ema_decay(decay, int(done))
            torch._foreach_lerp_(averaged, current, weight)

        super().__init__(use_buffers=False, multi_avg_fn=average)

    def on_fit_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Beside the model, which by now is on its device, and dealt out where it is."""
        assert self._average_model is not None
        average: Any = self._average_model.module
        average.to(pl_module.device)
        if isinstance(trainer.strategy, ShardedStrategy):
            deal_out(average.model, trainer.strategy.mesh)

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        checkpoint["state_dict"] = put_together(checkpoint["state_dict"])

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Nothing yet: the last checkpoint, written now, keeps the weights that training goes on
        with. `teardown` gives the model its averaged ones."""

    def teardown(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        if stage == "fit" and self._average_model is not None:
            self._copy_average_to_current(pl_module)


class StepProgress(Callback):
    """A tqdm bar over training steps, with time left, in a terminal and in a notebook."""

    def __init__(self, shown: tuple[str, ...] = ("train/loss", "val/loss")) -> None:
        self.shown = shown
        self._bar: Any = None

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        from tqdm.auto import tqdm

        if trainer.is_global_zero:
            self._bar = tqdm(total=trainer.max_steps, initial=trainer.global_step, unit="step")

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if self._bar is None:
            return
        self._bar.update(trainer.global_step - self._bar.n)
        metrics = {name: trainer.callback_metrics.get(name) for name in self.shown}
        values = {name: f"{float(v):.4g}" for name, v in metrics.items() if v is not None}
        self._bar.set_postfix(values, refresh=False)

    def on_train_end(self, *_: Any) -> None:
        self._close()

    def on_exception(self, *_: Any) -> None:
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()


class PreviewPictures(Callback):
    """Saves what the model makes of a few validation clips, every `every` steps.

    The model offers `preview(clip) -> {label: uint8 frames (B, T, H, W, 3)}`; the rows of the
    picture are the labels, for each clip.
    """

    def __init__(self, every: int, clips: int = 4, frames: int = 8) -> None:
        self.every, self.clips, self.frames = every, clips, frames
        self._clip: Clip | None = None
        self._drawn = -1  # at this step last

    def on_validation_batch_start(
        self, trainer: lightning.Trainer, module: Any, batch: Clip, batch_idx: int, *_: Any
    ) -> None:
        if batch_idx == 0:
            self._clip = batch[: self.clips]

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        self._save(trainer, module)

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, *_: Any) -> None:
        if self.every and trainer.global_step % self.every == 0:
            self._save(trainer, module)

    def _save(self, trainer: lightning.Trainer, module: Any) -> None:
        folder = run_folder(trainer)
        if self._clip is None or folder is None or not hasattr(module.model, "preview"):
            return
        if self._drawn == trainer.global_step:
            return
        self._drawn = trainer.global_step
        model = whole_model(trainer)
        path = folder / "previews" / f"step-{trainer.global_step:07d}.png"
        if not trainer.is_global_zero or path.exists():
            return
        from workshop_lib.media.sheet import contact_sheet, write_image

        training = model.training
        model.eval()
        with torch.no_grad():
            rows = model.preview(self._clip)
        model.train(training)
        columns = min(self.frames, self._clip.frames.shape[1])
        pictures, labels = [], []
        for b in range(len(self._clip)):
            for label, frames in rows.items():
                pictures += list(frames[b, :columns].cpu().numpy())
                labels += [f"{label} {t}" for t in range(columns)]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, contact_sheet(pictures, columns, labels))


class RunRecord(Callback):
    """Writes versions.json into the run folder: what it takes to make the run again."""

    PACKAGES = ("torch", "lightning", "numpy", "jsonargparse", "array-record", "workshop-lib")

    def __init__(self, family: str, recipe: str) -> None:
        self.family, self.recipe = family, recipe

    def setup(self, trainer: lightning.Trainer, module: Any, stage: str) -> None:
        folder = run_folder(trainer)
        if stage != "fit" or not trainer.is_global_zero or folder is None:
            return
        record = {
            "family": self.family,
            "recipe": self.recipe,
            "commit": git_commit(),
            "python": platform.python_version(),
            "system": platform.platform(),
            "device": _device_name(),
            "processes": trainer.world_size,
            "packages": {name: _version(name) for name in self.PACKAGES},
            "parameters": sum(p.numel() for p in module.model.parameters()),
        }
        path = folder / "versions.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=2) + "\n")


def git_commit() -> str | None:
    """The commit of the checkout that this library runs from, with "+" if files differ from it."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None

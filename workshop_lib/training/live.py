"""Training a model inside a notebook: a bar, a curve that grows, and no files."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import lightning
import numpy as np
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from workshop_lib.data.clip import Clip
from workshop_lib.errors import WorkshopError
from workshop_lib.models.families import config_from_dict, model_classes
from workshop_lib.training.callbacks import AveragedWeights, StepProgress
from workshop_lib.training.module import TrainingModule
from workshop_lib.training.optim import OptimConfig
from workshop_lib.training.recipes import recipe_path
from workshop_lib.training.unseen_keys import settle_unseen

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# By name, such as "train/loss" or "val/psnr": the steps (n,) and the values (n,).
Curves = dict[str, tuple[np.ndarray, np.ndarray]]

LOOKS = 20  # how often in a run the validation clip is measured
SECONDS_BETWEEN_PICTURES = 2.0


def from_recipe(name: str, **changes: Any) -> tuple[nn.Module, OptimConfig]:
    """A new, untrained model by a recipe, and how the recipe trains it.

    name: of a recipe, such as "tokenizer/tiny". changes: keys of the model's config, instead of
    the recipe's.

    Raises WorkshopError for an unknown recipe or key.
    """
    recipe = yaml.safe_load(recipe_path(name).read_text())
    model_class, config_class = model_classes(recipe["family"])
    model = model_class(config_from_dict(config_class, recipe["model"] | changes))
    return model, config_from_dict(OptimConfig, recipe.get("optim", {}))


def train_live(
    model: nn.Module,
    batches: Iterable[Clip],
    steps: int,
    val_clip: Clip | None = None,
    optim: OptimConfig | None = None,
    show: bool = True,
) -> Curves:
    """Trains a model in place, with the same optimizer and averaged weights as `workshop fit`.

    Interrupting it (the stop button) ends the training; what is learned so far stays.

    model: has `loss(clip) -> (loss, logs)`; it trains on the device where it is, and ends with
        its averaged weights, in evaluation mode. Keys that no batch had do what the key next to
        them does.
    batches: clips for training; started again from the beginning when they run out.
    steps: how many optimizer steps.
    val_clip: held-out clips, measured 20 times in the run with the averaged weights.
    optim: optimizer and schedule.
    show: draw a bar, and in a notebook the curves.

    Returns the curves "train/NAME" (every step) and "val/NAME", by name.

    Raises WorkshopError if steps is less than 1, there are no batches, or model has no loss.
    """
    if steps < 1:
        raise WorkshopError(f"train_live: steps must be 1 or more, got {steps}")
    if not callable(getattr(model, "loss", None)):
        raise WorkshopError(f"train_live: {type(model).__name__} has no loss(clip) to train with")
    module = TrainingModule(model, optim or OptimConfig())
    device = next(model.parameters()).device
    curves = LiveCurves(steps, val_clip, show)
    callbacks: list[Callback] = [curves]
    if module.optim.ema:
        callbacks.append(AveragedWeights(module.optim.ema))
    if show:
        callbacks.append(StepProgress(shown=("train/loss", "val/loss")))
    trainer = _quiet_trainer(device, steps, val_clip is not None, callbacks)
    stream = _Stream(batches)
    _fit(trainer, module, stream, val_clip)
    model.to(device).eval()
    settle_unseen(model, stream.actions)
    return curves.result()


class LiveCurves(Callback):
    """Keeps what is logged, and draws it in one place of the notebook again and again."""

    def __init__(self, steps: int, val_clip: Clip | None, show: bool) -> None:
        self.every = max(1, steps // LOOKS)
        self.val_clip, self.show = val_clip, show
        self.total = steps
        self.steps: dict[str, list[int]] = {}
        self.values: dict[str, list[Tensor]] = {}
        self._preview: dict[str, Tensor] = {}
        self._display: Any = None
        self._drawn = 0.0

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._keep(trainer, "train/")
        if self.val_clip is None and trainer.global_step % self.every == 0:
            self.draw_if_due()

    def on_validation_batch_end(self, trainer: lightning.Trainer, module: Any, *_: Any) -> None:
        # Here, and not after validation, the averaged weights are in place.
        if self.show and self.val_clip is not None and hasattr(module.model, "preview"):
            few = self.val_clip[:4].to(module.device)
            self._preview = {k: v[:, -1].cpu() for k, v in module.model.preview(few).items()}

    def on_validation_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._keep(trainer, "val/")
        self.draw_if_due()

    def on_train_end(self, *_: Any) -> None:
        self.draw()

    def _keep(self, trainer: lightning.Trainer, prefix: str) -> None:
        """Without asking for numbers: a GPU would have to wait for each."""
        for name, value in trainer.callback_metrics.items():
            if name.startswith(prefix):
                self.steps.setdefault(name, []).append(trainer.global_step)
                self.values.setdefault(name, []).append(value.detach().clone())

    def result(self) -> Curves:
        return {
            name: (np.array(self.steps[name]), torch.stack(values).float().cpu().numpy())
            for name, values in self.values.items()
        }

    def draw_if_due(self) -> None:
        """Drawing takes a good part of a second: not too often."""
        if time.monotonic() - self._drawn > SECONDS_BETWEEN_PICTURES:
            self.draw()

    def draw(self) -> None:
        """The picture, where the last one was; nothing outside a notebook."""
        if not self.show or not self.steps or not _in_notebook():
            return
        from IPython.display import display

        preview = {name: frames.numpy() for name, frames in self._preview.items()}
        picture = training_picture(self.result(), self.total, preview)
        if self._display is None:
            self._display = display(picture, display_id=True)
        else:
            self._display.update(picture)
        self._drawn = time.monotonic()


def training_picture(
    curves: Curves, total_steps: int, preview: dict[str, np.ndarray] | None = None
) -> Figure:
    """Loss and, where it is logged, PSNR against steps; at the right what the model makes.

    curves: as from train_live. total_steps: where the axis ends.
    preview: rows of uint8 frames (n, H, W, 3) by label.
    """
    from workshop_lib.media.plots import figure_with_axes

    names = [name for name in ("loss", "psnr") if f"train/{name}" in curves]
    columns = len(names) + bool(preview)
    with figure_with_axes(4.3 * columns, 3.1, columns=columns) as (figure, axes):
        for name, ax in zip(names, axes, strict=False):
            _draw_curve(ax, name, curves)
            ax.set(xlabel="steps", xlim=(0, total_steps))
        if preview:
            rows = [np.concatenate(list(frames), axis=1) for frames in preview.values()]
            axes[-1].imshow(np.concatenate(rows))
            height = rows[0].shape[0]
            axes[-1].set_yticks([height * (i + 0.5) for i in range(len(rows))], list(preview))
            axes[-1].set_xticks([])
            axes[-1].grid(visible=False)
            axes[-1].set_title("held-out frames")
    return figure


def _draw_curve(ax: Axes, name: str, curves: Curves) -> None:
    from workshop_lib.media.plots import PALETTE

    steps, values = curves[f"train/{name}"]
    ax.plot(steps, values, color=PALETTE[5], lw=0.8, label="training batches")
    held_out = curves.get(f"val/{name}")
    if held_out is not None:
        ax.plot(*held_out, color=PALETTE[0], label="held out")
    last = float((held_out or (steps, values))[1][-1])
    if name == "psnr":
        ax.set_title(f"PSNR: {last:.1f} dB")
        ax.set_ylim(bottom=max(0.0, float(values.min())))
        ax.legend(loc="lower right")
    else:
        ax.set_title(f"{name}: {last:.3g}")
        if values.min() > 0:
            ax.set_yscale("log")


def _in_notebook() -> bool:
    if "IPython" not in sys.modules:
        return False
    from IPython.core.getipython import get_ipython

    return hasattr(get_ipython(), "kernel")


def _quiet_trainer(
    device: torch.device, steps: int, validates: bool, callbacks: list[Callback]
) -> lightning.Trainer:
    """A Trainer that writes nothing to disk and says nothing."""
    half = device.type == "cuda" and torch.cuda.is_bf16_supported()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    return lightning.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=[device.index or 0] if device.type == "cuda" else 1,
        precision="bf16-mixed" if half else "32-true",
        max_epochs=-1,
        max_steps=steps,
        val_check_interval=max(1, steps // LOOKS) if validates else None,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )


def _fit(
    trainer: lightning.Trainer,
    module: TrainingModule,
    batches: _Stream,
    val_clip: Clip | None,
) -> None:
    """trainer.fit, where the stop button only stops."""
    handles_signals = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if handles_signals else None
    held_out = None if val_clip is None else _Stream([val_clip])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice is about long runs
        try:
            trainer.fit(module, batches, held_out)
        except SystemExit:  # Lightning's answer to an interruption
            print(f"stopped after {trainer.global_step} steps; the model keeps what it learned")
        finally:
            if handles_signals:
                signal.signal(signal.SIGINT, handler)


class _Stream:
    """Clips one after the other. (A list Lightning takes for several loaders, side by side.)

    actions: those that were pressed in the clips so far.

    Raises WorkshopError if there are none, over which Lightning would go round for ever.
    """

    def __init__(self, clips: Iterable[Clip]) -> None:
        self.clips = clips
        self.actions: set[int] = set()

    def __iter__(self) -> Iterator[Clip]:
        empty = True
        for clip in self.clips:
            empty = False
            self.actions.update(clip.actions.unique().tolist())
            yield clip
        if empty:
            raise WorkshopError("train_live: there were no batches to train on")

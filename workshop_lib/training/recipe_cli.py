"""LightningCLI over our recipes: what `workshop fit`, `validate` and `test` put together."""

from __future__ import annotations

from argparse import ArgumentError
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from workshop_lib.data.datamodule import ClipDataModule, parts_of_batch
from workshop_lib.data.encoded import tokenizer_note
from workshop_lib.errors import WorkshopError
from workshop_lib.models.files import run_note, save_model
from workshop_lib.models.latent_driven import LatentDriven
from workshop_lib.training import cluster
from workshop_lib.training.callbacks import (
    AveragedWeights,
    PreviewPictures,
    RunRecord,
    StepProgress,
)
from workshop_lib.training.checkpoints import Checkpoints, checkpoint_of
from workshop_lib.training.gan import GanTrainingModule, check_trainer
from workshop_lib.training.latent import with_latent_actions
from workshop_lib.training.memory import checkpoint_activations, largest_micro_batch, trial
from workshop_lib.training.module import TrainingModule
from workshop_lib.training.optim import OptimConfig
from workshop_lib.training.options import add_options, one_line, precision, run_name, strategy
from workshop_lib.training.resume import (
    KeptMetrics,
    StepSeeds,
    new_run_folder,
    newest_run_folder,
)
from workshop_lib.training.sharded import ShardedStrategy, check_sharded, whole_model
from workshop_lib.training.speed import Speed
from workshop_lib.training.starting import start_from
from workshop_lib.training.stopping import Stopping
from workshop_lib.training.unseen_keys import seen_actions, settle_unseen

EXPORT = "model.safetensors"
TRAINER_DEFAULTS = {
    "max_epochs": -1,
    "max_steps": 1000,
    "devices": 1,
    "num_sanity_val_steps": 0,
    "check_val_every_n_epoch": None,
    "val_check_interval": 500,
    "log_every_n_steps": 10,
    "enable_progress_bar": False,  # ours counts steps and knows the time left
    "enable_model_summary": False,
}


class RecipeCLI(LightningCLI):
    """LightningCLI whose model is one of our families, given by its config."""

    family: str
    recipe: Path
    folder: Path | None  # of a run that goes on; in the end, of this run
    model_type: type[torch.nn.Module]
    config_type: type
    kinds: dict[str, type]  # of the model's config: which dataclass a key with a choice is

    def __init__(self) -> None:
        super().__init__(
            TrainingModule,
            ClipDataModule,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            save_config_kwargs={"overwrite": True},  # a run that goes on may have been told more
            parser_kwargs={"exit_on_error": False},
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The trainer's methods that we offer, and the parameters that are not options."""
        hidden = {"model", "dataloaders", "datamodule", "weights_only", "verbose"}
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule", "weights_only"},
            "validate": hidden,
            "test": hidden,
        }

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_lightning_class_args(Trainer, "trainer")
        parser.set_defaults({f"trainer.{key}": value for key, value in TRAINER_DEFAULTS.items()})
        parser.add_class_arguments(self.config_type, "model", skip=set(self.kinds))
        for key, kind in self.kinds.items():
            parser.add_class_arguments(kind, f"model.{key}")
        parser.add_lightning_class_args(ClipDataModule, "data")
        parser.add_class_arguments(OptimConfig, "optim")
        add_options(parser, self.family)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """One line for a mistake, instead of all options and then the mistake."""
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            raise WorkshopError(one_line(error)) from error

    def _of(self, key: str) -> Any:
        return self._get(self.config_init, key, default=None)

    def instantiate_classes(self) -> None:
        try:
            self.config_init = self.parser.instantiate_classes(self.config)
        except ValueError as error:
            raise WorkshopError(one_line(error)) from error
        self.datamodule = self._of("data")
        asked = self._of("trainer")
        half = precision(asked["precision"])
        self.model = self._training_module()
        two_losses = isinstance(self.model, GanTrainingModule)
        self.trainer = self.instantiate_trainer(
            precision=half,
            strategy=self._strategy(asked["strategy"], half),
            logger=False,  # not before all is checked: no folder for a run that does not start
            **cluster.layout(),
        )
        if self.subcommand == "fit":
            self._fit_into_memory()
        if two_losses:
            check_trainer(self.trainer)
        if self.subcommand == "fit":
            self._settle_folder()

    def _strategy(self, asked: Any, half: Any) -> Any:
        if asked == "fsdp" and self.subcommand != "fit":
            asked = "auto"  # measuring keeps nothing beside the weights
        two_losses = isinstance(self.model, GanTrainingModule)
        settled = strategy(asked, cluster.place()[1], two_losses)
        if isinstance(settled, ShardedStrategy):
            check_sharded(self.model.model, two_losses, self._of("compile"), half)
        return settled

    def _fit_into_memory(self) -> None:
        """Batches in parts, where they are too large; all is still counted in whole batches."""
        data, world_size = self.datamodule, self.trainer.world_size
        if self._of("activation_checkpointing"):
            checkpoint_activations(self.model.model)
        if self._of("find_micro_batch"):
            if not torch.cuda.is_available():
                raise WorkshopError("find_micro_batch: needs a GPU; say --data.micro_batch instead")
            module = self.model.to(self.trainer.strategy.root_device)
            clip = next(iter(data.clips("train"))).to(module.device)
            share = data.config.batch_size // world_size
            data.micro_batch = largest_micro_batch(share, trial(module, clip))
            print(f"data.micro_batch {data.micro_batch} fits")
        parts = parts_of_batch(data.config.batch_size, world_size, data.micro_batch)
        if parts > 1:
            if self.trainer.accumulate_grad_batches != 1:
                raise WorkshopError(
                    "trainer.accumulate_grad_batches: follows from data.micro_batch; leave it out"
                )
            self.trainer.accumulate_grad_batches = parts
            if isinstance(self.trainer.val_check_interval, int):
                self.trainer.val_check_interval *= parts

    def _settle_folder(self) -> None:
        """Where this run writes, and the checkpoint from which it goes on; the same for all."""
        folder, checkpoint = self.folder, self._of("ckpt_path")
        if cluster.place()[0] == 0:
            runs, name = Path(self._of("runs")), self._of("name") or run_name(self.recipe)
            if folder is None and self._of("resume"):
                folder = newest_run_folder(runs, name)
            if folder is not None:
                checkpoint = str(checkpoint_of(folder))
            else:
                folder = new_run_folder(runs, name)
        folder, checkpoint = cluster.share((folder, checkpoint))
        assert folder is not None  # process 0 made it
        RecipeCLI.folder = folder
        fit = self.config_init[str(self.subcommand)]
        fit["ckpt_path"] = checkpoint
        if cluster.place()[0] == 0:
            self.trainer.callbacks.insert(0, KeptMetrics(folder))  # type: ignore[attr-defined]
        self.trainer.loggers = self._loggers(folder)

    def _training_module(self) -> TrainingModule:
        model: Any = self.model_type(self._of("model"))
        if hasattr(model, "prepare"):
            model.prepare()
        if self._of("start_from") and self.folder is None:
            start_from(model, self._of("start_from"))
        if self.family == "dynamics":
            model = with_latent_actions(model, self._of("lam"), self._of("joint"))
        optim, compiled, gan = self._of("optim"), self._of("compile"), self._of("gan")
        if gan is None:
            return TrainingModule(model, optim, compiled)
        return GanTrainingModule(model, optim, gan, compiled)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = {**self._of("trainer"), **kwargs}
        config["callbacks"] = [*(config["callbacks"] or []), *self._callbacks()]
        if self.subcommand != "fit":  # measuring leaves no files behind
            config["enable_checkpointing"], self.save_config_callback = False, None
        return self._instantiate_trainer(config, [])

    def _loggers(self, folder: Path) -> list[Logger]:
        place: Any = {"save_dir": folder.parent, "name": "", "version": folder.name}
        loggers: list[Logger] = [
            CSVLogger(**place, flush_logs_every_n_steps=1),
            TensorBoardLogger(**place),
        ]
        if find_spec("wandb") is not None:
            from lightning.pytorch.loggers import WandbLogger

            name = folder.parent.name
            loggers.append(WandbLogger(name=name, save_dir=folder, project="workshop"))
        return loggers

    def _callbacks(self) -> list[Callback]:
        """Those that save or stop come after those that change what is saved."""
        if self.subcommand != "fit":
            return []
        callbacks: list[Callback] = [
            PreviewPictures(self._of("preview_every")),
            RunRecord(self.family, str(self.recipe)),
            StepProgress(),
            StepSeeds(int(self._of("seed_everything") or 0)),  # before all that log
            LearningRateMonitor(),
            Speed(self._of("trainer")["log_every_n_steps"] or 50),
        ]
        if self.model.optim.ema:
            callbacks.append(AveragedWeights(self.model.optim.ema))
        callbacks.append(Stopping(self._of("max_hours")))
        checkpoints = Checkpoints(self._of("checkpoint_every"), self._of("keep_checkpoints"))
        return [*callbacks, checkpoints]

    def after_fit(self) -> None:
        """The trained (averaged) model as one file in the run folder."""
        model = whole_model(self.trainer)
        if not self.trainer.is_global_zero:
            return
        folder = Path(self.folder or ".")
        notes = {"run": run_note(folder), **tokenizer_note(self.datamodule.path)}
        if isinstance(model, LatentDriven):
            if model.joint:
                save_model(model.lam, "latent_action", folder / model.lam_file, dict(notes))
            notes |= model.note()
            model = model.dynamics
        settle_unseen(model, seen_actions(self.datamodule.path))
        save_model(model, self.family, folder / EXPORT, notes)
        print(f"{folder}: trained {self.trainer.global_step} steps; the model is {folder / EXPORT}")

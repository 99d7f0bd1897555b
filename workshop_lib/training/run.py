"""`workshop fit`, `validate` and `test`: LightningCLI over our recipes.

A recipe is a YAML file with the keys `family` (which model), `model` (its config), `optim`, `data`
and `trainer`, and for tokenizers `gan` (a discriminator; none by default); any of them can be
overridden: `workshop fit -c tokenizer/tiny --model.dim 96`.
"""

from __future__ import annotations

import logging
import re
import sys
import warnings
from argparse import ArgumentError
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger

from workshop_lib.data.datamodule import ClipDataModule
from workshop_lib.data.encoded import tokenizer_note
from workshop_lib.errors import WorkshopError
from workshop_lib.models.families import model_classes
from workshop_lib.models.files import save_model
from workshop_lib.models.latent_driven import LatentDriven
from workshop_lib.training.callbacks import (
    AveragedWeights,
    PreviewPictures,
    RunRecord,
    StepProgress,
)
from workshop_lib.training.gan import GanConfig, GanTrainingModule, check_trainer
from workshop_lib.training.kinds import settle_kinds
from workshop_lib.training.latent import EXPORT as LAM_EXPORT
from workshop_lib.training.latent import with_latent_actions
from workshop_lib.training.module import TrainingModule
from workshop_lib.training.optim import OptimConfig
from workshop_lib.training.recipes import CONFIGS, expand, read_recipe

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


def run(verb: str, arguments: list[str]) -> int:
    """Runs `fit`, `validate` or `test` with the arguments of the command line."""
    arguments, place = expand(verb, arguments)
    arguments[place] = _settle(Path(arguments[place]), arguments)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*transfer_batch_to_device.*")  # ours serves both
    for message in (
        ".*LeafSpec.*",
        "Using ModelCheckpoint with manual",
        ".*when using .ckpt_path.*",
    ):  # Lightning's own affair
        warnings.filterwarnings("ignore", message=message)
    typed, sys.argv = sys.argv, [sys.argv[0], verb, *arguments]
    try:
        RecipeCLI()
    finally:
        sys.argv = typed
    return 0


def _settle(recipe: Path, arguments: list[str]) -> str:
    """Tells the CLI the family and the kinds of its parts; what to give it as the recipe.

    That is the recipe's path or, where the arguments change a kind, its text without that part.
    """
    content = read_recipe(recipe)
    RecipeCLI.recipe, RecipeCLI.family = recipe, content["family"]
    RecipeCLI.model_type, RecipeCLI.config_type = model_classes(content["family"])
    model = content.get("model")
    model = model if isinstance(model, dict) else {}
    RecipeCLI.kinds, fitting = settle_kinds("model", RecipeCLI.config_type, model, arguments)
    return str(recipe) if fitting == model else yaml.safe_dump({**content, "model": fitting})


class RecipeCLI(LightningCLI):
    """LightningCLI whose model is one of our families, given by its config."""

    family: str
    recipe: Path
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
        if self.family == "tokenizer":
            parser.add_argument(
                "--gan",
                type=GanConfig | None,
                default=None,
                help="A discriminator to train against; setting any of its keys switches it on.",
            )
        if self.family == "dynamics":
            parser.add_argument(
                "--lam", type=str | None, default=None, help="A latent action model's file."
            )
            parser.add_argument(
                "--joint", type=bool, default=False, help="Train the latent actions, too."
            )
        parser.add_argument("--family", type=str, default=self.family, help="Kind of model.")
        parser.add_argument("--name", type=str | None, default=None, help="Name of the run folder.")
        parser.add_argument("--runs", type=str, default="runs", help="Folder of all runs.")
        parser.add_argument("--compile", type=bool, default=False, help="Use torch.compile.")
        parser.add_argument(
            "--preview_every", type=int, default=500, help="Steps between pictures; 0 for none."
        )
        parser.add_argument(
            "--checkpoint_every", type=int, default=500, help="Steps between checkpoints."
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """One line for a mistake, instead of all options and then the mistake."""
        try:
            super().parse_arguments(parser, args)
        except ArgumentError as error:
            raise WorkshopError(_reason(error)) from error

    def instantiate_classes(self) -> None:
        try:
            self.config_init = self.parser.instantiate_classes(self.config)
        except ValueError as error:
            raise WorkshopError(_reason(error)) from error
        self.datamodule = self._get(self.config_init, "data")
        self.model = self._training_module()
        precision = _precision(self._get(self.config_init, "trainer")["precision"])
        self.trainer = self.instantiate_trainer(precision=precision, logger=self._loggers())
        if isinstance(self.model, GanTrainingModule):
            check_trainer(self.trainer)

    def _training_module(self) -> TrainingModule:
        model: Any = self.model_type(self._get(self.config_init, "model"))
        if hasattr(model, "prepare"):
            model.prepare()
        if self.family == "dynamics":
            lam, joint = (self._get(self.config_init, key) for key in ("lam", "joint"))
            model = with_latent_actions(model, lam, joint)
        optim, compiled = (self._get(self.config_init, key) for key in ("optim", "compile"))
        gan = self._get(self.config_init, "gan", default=None)
        if gan is None:
            return TrainingModule(model, optim, compiled)
        return GanTrainingModule(model, optim, gan, compiled)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = {**self._get(self.config_init, "trainer"), **kwargs}
        config["callbacks"] = [*(config["callbacks"] or []), *self._callbacks()]
        return self._instantiate_trainer(config, [])

    def _loggers(self) -> list[Logger]:
        runs = self._get(self.config_init, "runs")
        name = self._get(self.config_init, "name") or _run_name(self.recipe)
        csv = CSVLogger(runs, name=name, flush_logs_every_n_steps=20)
        loggers: list[Logger] = [csv, TensorBoardLogger(runs, name=name, version=csv.version)]
        if find_spec("wandb") is not None:
            from lightning.pytorch.loggers import WandbLogger

            loggers.append(WandbLogger(name=name, save_dir=csv.log_dir, project="workshop"))
        return loggers if self.subcommand == "fit" else [csv]

    def _callbacks(self) -> list[Callback]:
        every = self._get(self.config_init, "checkpoint_every")
        callbacks: list[Callback] = [
            PreviewPictures(self._get(self.config_init, "preview_every")),
            RunRecord(self.family, str(self.recipe)),
        ]
        if self.subcommand == "fit":
            callbacks += [
                StepProgress(),
                LearningRateMonitor(),
                ModelCheckpoint(every_n_train_steps=every, save_last=True, save_on_exception=True),
            ]
            if self.model.optim.ema:
                callbacks.append(AveragedWeights(self.model.optim.ema))
        return callbacks

    def after_fit(self) -> None:
        """The trained (averaged) model as one file in the run folder."""
        if not self.trainer.is_global_zero:
            return
        folder = Path(self.trainer.log_dir or ".")
        notes = {"run": str(folder), **tokenizer_note(self.datamodule.path)}
        model = self.model.model
        if isinstance(model, LatentDriven):
            lam = self._get(self.config_init, "lam")
            if model.joint:
                lam = folder / LAM_EXPORT
                save_model(model.lam, "latent_action", lam, {"run": str(folder)})
            notes |= model.note(Path(lam).name)
            model = model.dynamics
        save_model(model, self.family, folder / EXPORT, notes)
        print(f"{folder}: trained {self.trainer.global_step} steps; the model is {folder / EXPORT}")


def _run_name(recipe: Path) -> str:
    """tokenizer/tiny is named tokenizer-tiny; another file by its stem; a run by its folder."""
    if recipe.is_relative_to(CONFIGS):
        return recipe.relative_to(CONFIGS).with_suffix("").as_posix().replace("/", "-")
    return recipe.parent.parent.name if recipe.name == "config.yaml" else recipe.stem


def _reason(error: Exception) -> str:
    """jsonargparse's report as one line; of a choice of types, only on the one that was meant."""
    head, *tried = re.split(r"\n +- ", str(error).partition("\n  Given value")[0])
    meant = [report for report in tried if not report.startswith("Expected a ")][:1]
    key = head.splitlines()[:1] if head.startswith("Parser key") else []
    text = " ".join([*key, *(meant or tried)] if tried else [head])
    return re.sub(r"Problem with given class_path '\S+': ", "", " ".join(text.split()))


def _precision(asked: Any) -> Any:
    """bf16 on GPUs that have it, float32 elsewhere, unless asked otherwise.

    Raises WorkshopError for half precision without a GPU: it is about 100 times slower there.
    """
    on_gpu = torch.cuda.is_available()
    if asked is None:
        return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"
    if not on_gpu and "16" in str(asked):
        raise WorkshopError(f"trainer.precision {asked} needs a GPU; leave it out for float32")
    return asked


def fit(arguments: list[str]) -> int:
    """Trains a model by a recipe."""
    return run("fit", arguments)


def validate(arguments: list[str]) -> int:
    """Measures a model on the validation set."""
    return run("validate", arguments)


def test(arguments: list[str]) -> int:
    """Measures a model on the test set."""
    return run("test", arguments)


if __name__ == "__main__":
    sys.exit(fit(sys.argv[1:]))

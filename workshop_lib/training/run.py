"""`workshop fit`, `validate` and `test`: LightningCLI over our recipes.

A recipe is a YAML file with the keys `family` (which model), `model` (its config), `optim`, `data`
and `trainer`, and for tokenizers `gan` (a discriminator; none by default); any of them can be
overridden: `workshop fit -c tokenizer/tiny --model.dim 96`.
"""

from __future__ import annotations

import logging
import sys
import warnings
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
from workshop_lib.errors import WorkshopError
from workshop_lib.models.families import model_classes
from workshop_lib.models.files import save_model
from workshop_lib.training.callbacks import (
    AveragedWeights,
    PreviewPictures,
    RunRecord,
    StepProgress,
)
from workshop_lib.training.gan import GanConfig, GanTrainingModule, check_trainer
from workshop_lib.training.kinds import settle_kinds
from workshop_lib.training.module import TrainingModule
from workshop_lib.training.optim import OptimConfig

CONFIGS = Path(__file__).parent.parent / "configs"
EXPORT = "model.safetensors"
LAST = "last.ckpt"
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


def recipe_path(name: str) -> Path:
    """A YAML file, or the short name of a recipe of this package, such as tokenizer/tiny.

    Raises WorkshopError, listing the recipes, if there is no such file.
    """
    for path in (Path(name), CONFIGS / f"{name}.yaml"):
        if path.is_file():
            return path
    raise WorkshopError(f"no recipe {name!r}: give a YAML file or one of {', '.join(recipes())}")


def recipes() -> list[str]:
    """The short names of all recipes."""
    return sorted(
        p.relative_to(CONFIGS).with_suffix("").as_posix() for p in CONFIGS.rglob("*.yaml")
    )


def run(verb: str, arguments: list[str]) -> int:
    """Runs `fit`, `validate` or `test` with the arguments of the command line."""
    arguments, place = _expand(verb, arguments)
    RecipeCLI.recipe = Path(arguments[place])
    arguments[place] = _settle(RecipeCLI.recipe, arguments)
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


def _expand(verb: str, arguments: list[str]) -> tuple[list[str], int]:
    """Short recipe names to paths; a run folder to its config and newest checkpoint.

    Returns the arguments and the recipe's place among them.
    """
    result = list(arguments)
    if result and not result[0].startswith("-"):
        folder = Path(result[0])
        if not (folder / "config.yaml").is_file():
            raise WorkshopError(f"{folder}: no run folder (it has no config.yaml); use -c RECIPE")
        checkpoint = folder / "checkpoints" / LAST
        result[:1] = ["-c", str(folder / "config.yaml"), "--ckpt_path", str(checkpoint)]
    for place, argument in enumerate(result):
        if argument in ("-c", "--config"):
            if place + 1 == len(result):
                break
            result[place + 1] = str(recipe_path(result[place + 1]))
            return result, place + 1
        if argument.startswith("--config="):
            result[place : place + 1] = ["-c", str(recipe_path(argument.partition("=")[2]))]
            return result, place + 1
    if {"-h", "--help"} & set(result):
        return ["-c", str(recipe_path(recipes()[0])), *result], 1
    raise WorkshopError(f"`workshop {verb}` needs -c RECIPE; recipes: {', '.join(recipes())}")


def _settle(recipe: Path, arguments: list[str]) -> str:
    """Tells the CLI the family and the kinds of its parts; what to give it as the recipe.

    That is the recipe's path, or where the arguments change a kind, the rest of its text.
    """
    try:
        content = yaml.safe_load(recipe.read_text())
    except yaml.YAMLError as error:
        raise WorkshopError(f"{recipe}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or "family" not in content:
        raise WorkshopError(f"{recipe}: has no key 'family', e.g. family: tokenizer")
    RecipeCLI.family = content["family"]
    RecipeCLI.model_type, RecipeCLI.config_type = model_classes(content["family"])
    model = content.get("model")
    if not isinstance(model, dict):
        model = {}
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
        save_model(self.model.model, self.family, folder / EXPORT, {"run": str(folder)})
        print(f"{folder}: trained {self.trainer.global_step} steps; the model is {folder / EXPORT}")


def _run_name(recipe: Path) -> str:
    """tokenizer/tiny is named tokenizer-tiny; another file by its stem; a run by its folder."""
    if recipe.is_relative_to(CONFIGS):
        return recipe.relative_to(CONFIGS).with_suffix("").as_posix().replace("/", "-")
    return recipe.parent.parent.name if recipe.name == "config.yaml" else recipe.stem


def _reason(error: ValueError) -> str:
    """jsonargparse's report on a choice of configs, cut down to the line on the one meant."""
    tried = [line.strip(" -") for line in str(error).splitlines() if line.lstrip().startswith("- ")]
    meant = [line for line in tried if not line.startswith("Expected a ")]
    return (meant or [" ".join(str(error).split())])[0]


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

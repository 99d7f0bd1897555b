"""What `workshop fit` can be told beside the model, the data and Lightning's Trainer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.cli import LightningArgumentParser

from workshop_lib.errors import WorkshopError
from workshop_lib.training.gan import GanConfig
from workshop_lib.training.recipes import CONFIGS
from workshop_lib.training.sharded import ShardedStrategy


def add_options(parser: LightningArgumentParser, family: str) -> None:
    """The options of a run; some only where the family of models has a use for them."""
    if family == "tokenizer":
        parser.add_argument(
            "--gan",
            type=GanConfig | None,
            default=None,
            help="A discriminator to train against; setting any of its keys switches it on.",
        )
    if family == "dynamics":
        parser.add_argument(
            "--lam", type=str | None, default=None, help="A latent action model's file."
        )
        parser.add_argument(
            "--joint", type=bool, default=False, help="Train the latent actions, too."
        )
    add = parser.add_argument
    add("--family", type=str, default=family, help="Kind of model.")
    add("--name", type=str | None, default=None, help="Name of the run folder.")
    add("--runs", type=str, default="runs", help="Folder of all runs.")
    add(
        "--resume",
        type=bool,
        default=False,
        help="Go on with the newest run of this name, if there is one.",
    )
    add(
        "--start_from",
        type=str | None,
        default=None,
        help="A trained model, by file or name, whose weights a new run starts with.",
    )
    add("--max_hours", type=float | None, default=None, help="Save and leave after so many.")
    add("--checkpoint_every", type=int, default=500, help="Steps between checkpoints.")
    add("--keep_checkpoints", type=int, default=3, help="How many are kept, the newest ones.")
    add("--preview_every", type=int, default=500, help="Steps between pictures; 0 for none.")
    add("--compile", type=bool, default=False, help="Use torch.compile.")
    add(
        "--activation_checkpointing",
        type=bool,
        default=False,
        help="Less memory, a third more time: transformer blocks are computed twice.",
    )
    add(
        "--find_micro_batch",
        type=bool,
        default=False,
        help="Find the largest data.micro_batch that fits into this GPU.",
    )


def run_name(recipe: Path) -> str:
    """tokenizer/tiny is named tokenizer-tiny; another file by its stem; a run by its folder."""
    if recipe.is_relative_to(CONFIGS):
        return recipe.relative_to(CONFIGS).with_suffix("").as_posix().replace("/", "-")
    return recipe.parent.parent.name if recipe.name == "config.yaml" else recipe.stem


def one_line(error: Exception) -> str:
    """jsonargparse's report as one line; of a choice of types, only on the one that was meant."""
    head, *tried = re.split(r"\n +- ", str(error).partition("\n  Given value")[0])
    meant = [report for report in tried if not report.startswith("Expected a ")][:1]
    key = head.splitlines()[:1] if head.startswith("Parser key") else []
    text = " ".join([*key, *(meant or tried)] if tried else [head])
    return re.sub(r"Problem with given class_path '\S+': ", "", " ".join(text.split()))


def precision(asked: Any) -> Any:
    """bf16 on GPUs that have it, float32 elsewhere, unless asked otherwise.

    Raises WorkshopError for half precision where the processor has no instructions for it: it is
    about 100 times slower there. (A few CPUs have them for bf16: a training step of the tokenizer
    for hard levels took 0.65 of float32's time on one.)
    """
    on_gpu = torch.cuda.is_available()
    if asked is None:
        return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"
    if not on_gpu and "16" in str(asked) and not (asked == "bf16-mixed" and cpu_has_bf16()):
        raise WorkshopError(f"trainer.precision {asked} needs a GPU; leave it out for float32")
    return asked


def cpu_has_bf16() -> bool:
    """Has this processor instructions for bf16 (AVX-512 BF16)?"""
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())


def strategy(asked: Any, processes: int, two_losses: bool) -> Any:
    """Lightning's strategy: DDP where there are several processes, unless asked otherwise.

    two_losses: trained with a discriminator, so that no backward pass reaches all weights.

    Raises WorkshopError for ways to split up the model other than our fsdp.
    """
    name = asked if isinstance(asked, str) else type(asked).__name__
    if name == "fsdp":
        return "auto" if processes == 1 else ShardedStrategy()
    if any(split in name.lower() for split in ("fsdp", "deepspeed", "modelparallel")):
        raise WorkshopError(f"trainer.strategy {name}: use fsdp or ddp")
    if processes == 1 or name != "auto":
        return asked
    return "ddp_find_unused_parameters_true" if two_losses else "ddp"

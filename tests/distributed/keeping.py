"""`workshop fit`, after which each process leaves its weights in weights-RANK.pt."""

from __future__ import annotations

import sys

import torch

from workshop_lib.training.recipe_cli import RecipeCLI
from workshop_lib.training.run import fit

finish = RecipeCLI.after_fit


def keep_and_finish(cli: RecipeCLI) -> None:
    torch.save(cli.model.model.state_dict(), f"weights-{cli.trainer.global_rank}.pt")
    finish(cli)


if __name__ == "__main__":
    RecipeCLI.after_fit = keep_and_finish  # type: ignore[method-assign]
    sys.exit(fit(sys.argv[1:]))

"""Keys that nobody pressed in the data: without help a trained model makes anything of them.

Policy `control` presses six of the 15 keys. What a model has learned for another one is what it was
born with, noise: a player who pressed DOWN would see the level fall to pieces.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from workshop_lib.data.actions import ACTIONS, NUM_ACTIONS
from workshop_lib.data.splits import MANIFEST, load_manifest

# Letters do what no key does. DOWN changes little: each key with it becomes the one without.
NEXT_BEST = {each.index: each.merged for each in ACTIONS} | {0: 1, 3: 4, 6: 7}


def seen_actions(data: str | Path) -> list[int]:
    """The actions in the training set of a split folder; all of them if its manifest is not there
    or does not say."""
    counts: list[int] = []
    if (Path(data) / MANIFEST).is_file():
        counts = load_manifest(data)["splits"].get("train", {}).get("action_histogram", [])
    seen = [action for action, count in enumerate(counts) if count]
    return seen or list(range(NUM_ACTIONS))


@torch.no_grad()
def settle_unseen(model: nn.Module, seen: Iterable[int]) -> None:
    """Each of the 15 actions that is not among the seen ones becomes the seen one that does the
    same, or nearly so: its row in every table of actions is copied. In place.

    A model that is led by latent codes is left as it is: those are no keys."""
    if getattr(getattr(model, "config", None), "drive", "actions") == "latent":
        return
    known = set(seen)
    for name, table in model.named_modules():
        rows = table.num_embeddings if isinstance(table, nn.Embedding) else 0
        if "actions" not in name.split(".") or rows != NUM_ACTIONS + 1:
            continue
        weight = table.get_parameter("weight")
        for action, other in NEXT_BEST.items():
            if action not in known and other in known:
                weight[action] = weight[other]

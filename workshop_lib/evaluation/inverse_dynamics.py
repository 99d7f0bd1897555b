"""The ceiling for latent actions: the same encoder, told what was pressed.

What it still gets wrong cannot be seen in the pictures (a jump pressed in the air does nothing), or
cannot be learned in so many steps.
"""

from __future__ import annotations

import math
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib.data.actions import MERGED_NAMES, merge_actions
from workshop_lib.data.clip import Clip
from workshop_lib.data.clips import ClipBatches, ClipConfig
from workshop_lib.data.splits import split_shards
from workshop_lib.models.latent_action import LatentActionModel
from workshop_lib.models.latent_coders import make_encoder

RATE, WARMUP, END = 1.5e-3, 100, 0.03  # learning rate, steps of warm-up, last rate as a share
CLIPS, PER_CLIP = 32, 2  # in a batch
PER_READ = 6.0  # clips drawn from an episode when it is read


class InverseDynamics(nn.Module):
    """The encoder of a latent action model, untrained, that tells the player's six actions apart.

    (MERGED_NAMES in data/actions.py: the other keys do nothing in CoinRun.)
    """

    def __init__(self, model: LatentActionModel) -> None:
        super().__init__()
        config, classes = model.config, len(MERGED_NAMES)
        self.encoder = make_encoder(config.encoder, config.size, config.history, classes)

    @torch.no_grad()
    def infer(self, seen: Tensor) -> Tensor:
        """What the encoder reads (frames or tokens) to actions int64 (B, T - 1), 0 to 5."""
        B, T = seen.shape[:2]
        places = torch.arange(T - 1, device=seen.device).expand(B, -1)
        return self.encoder(seen, places).argmax(dim=-1)


def merged(actions: Tensor) -> Tensor:
    """The game's actions, int64 of any shape, to the six that a player tells apart."""
    return torch.from_numpy(merge_actions(actions.cpu().numpy()))


def train_probe(
    model: LatentActionModel, data: str | Path, steps: int, seed: int = 0
) -> InverseDynamics:
    """Trains the probe on the train levels, 64 transitions a step, on the model's device.

    Raises WorkshopError for data whose episodes are too short for a clip.
    """
    device = next(model.parameters()).device
    length = model.config.history + 4
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        probe = InverseDynamics(model).to(device).train()
        optimizer = torch.optim.AdamW(
            probe.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.01
        )
        clip_config = ClipConfig(length, CLIPS, clips_per_read=PER_READ, seed=seed)
        batches = ClipBatches(split_shards(data, "train"), clip_config)
        for step, clip in enumerate(islice(batches, steps)):
            for group in optimizer.param_groups:
                group["lr"] = RATE * _factor(step, steps)
            loss = _loss(probe, model.seen(clip).to(device), clip)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(probe.parameters(), 1.0)
            optimizer.step()
    return probe.eval()


def _loss(probe: InverseDynamics, seen: Tensor, clip: Clip) -> Tensor:
    """Cross-entropy of some transitions of each clip, drawn at random."""
    places = torch.randint(seen.shape[1] - 1, (len(clip), PER_CLIP))
    wanted = merged(clip.actions.gather(1, places)).to(seen.device)
    logits = probe.encoder(seen, places.to(seen.device))
    return F.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten())


def _factor(step: int, steps: int) -> float:
    fall = END + (1 - END) * 0.5 * (1 + math.cos(math.pi * step / steps))
    return min(1.0, (step + 1) / WARMUP) * fall

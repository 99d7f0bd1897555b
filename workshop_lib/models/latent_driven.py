"""Dynamics driven by latent actions: a world learned from video in which no key was recorded.

The latent action model tells what happened between the frames, the dynamics learns what follows
from it. Either the first is trained before and stays as it is (Bruce et al. 2024, "Genie", section
2.1), or both learn together: then what the dynamics needs to know reaches the codes, through the
straight-through estimator, while the latent action model's own loss keeps them from collapsing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib.data.clip import Clip
from workshop_lib.errors import WorkshopError
from workshop_lib.models.dynamics import Dynamics
from workshop_lib.models.latent_action import LatentActionModel

KEY = "lam"  # in the metadata of a model's file


class LatentDriven(nn.Module):
    """The two in training.

    Args:
        dynamics: with drive "latent" and as many actions as the other has codes.
        lam: the latent action model.
        joint: whether it learns, too.

    Raises WorkshopError for parts that do not fit together.
    """

    def __init__(self, dynamics: Dynamics, lam: LatentActionModel, joint: bool = False) -> None:
        super().__init__()
        drive, actions = dynamics.config.drive, dynamics.config.num_actions
        if drive != "latent":
            raise WorkshopError(f"latent actions need model.drive latent, not {drive}")
        if actions != lam.num_codes:
            raise WorkshopError(
                f"model.num_actions {actions} must be the {lam.num_codes} codes of the latent "
                f"action model"
            )
        self.dynamics, self.lam, self.joint = dynamics, lam, joint
        self.lam_file = "lam.safetensors"  # where it lies, or will
        lam.requires_grad_(joint)

    def train(self, mode: bool = True) -> LatentDriven:
        super().train(mode)
        self.lam.train(mode and self.joint)
        return self

    def loss(self, clip: Clip) -> tuple[Tensor, dict[str, Tensor]]:
        """The dynamics' loss, and where both learn the latent action model's added to it.

        Raises WorkshopError for clips that one of them cannot be trained on.
        """
        loss, logs = self.dynamics.loss(clip, self.latents(clip))
        if self.joint:
            own, own_logs = self.lam.loss(clip)
            loss = loss + own
            logs |= {f"lam_{name}": value for name, value in own_logs.items()}
        return loss, logs

    def latents(self, clip: Clip) -> Tensor:
        """What happened after each frame but the last: int64 (B, T - 1); where both learn, float32
        (B, T - 1, K), 1 for the code and 0 for the others, with the gradient of the soft ones."""
        seen = self.lam.seen(clip)
        if not self.joint:
            return self.lam.infer(seen)
        B, T = seen.shape[:2]
        coded = self.lam.read(seen, torch.arange(T - 1, device=seen.device).expand(B, -1))
        soft = coded.log_soft.exp()
        hard = F.one_hot(coded.codes, self.lam.num_codes).to(soft.dtype)
        return hard + soft - soft.detach()

    def note(self) -> dict[str, str]:
        """For the metadata of the dynamics' file: which latent action model it learned from. That
        one's file is looked for beside it by its name."""
        return {KEY: json.dumps({"file": self.lam_file, "sha256": fingerprint(self.lam)})}


def fingerprint(lam: LatentActionModel) -> str:
    """A hash of the weights, rounded to float16 so that a file in half precision has the same.

    Which keys the codes stand for does not matter: that is found out later.
    """
    digest = hashlib.sha256()
    state: dict[str, Any] = lam.state_dict()
    for name in sorted(state):
        value = state[name]
        if value.is_floating_point():
            digest.update(name.encode() + value.detach().cpu().half().numpy().tobytes())
    return digest.hexdigest()


def lam_beside(model_file: str | Path, metadata: Mapping[str, str]) -> Path | None:
    """The latent action model of a dynamics, if its file lies in the same folder."""
    entry = json.loads(metadata.get(KEY, "null"))
    path = Path(model_file).parent / (entry or {}).get("file", "")
    return path if path.is_file() else None


def check_lam(metadata: Mapping[str, str], lam: LatentActionModel, path: str | Path) -> None:
    """Refuses a latent action model other than the one whose codes a dynamics learned.

    metadata: of the dynamics' file. One that names none is let through.

    Raises WorkshopError naming the file.
    """
    entry = json.loads(metadata.get(KEY, "null"))
    if entry is not None and fingerprint(lam) != entry["sha256"]:
        raise WorkshopError(
            f"{path} is not the latent action model that the dynamics was trained with "
            f"({entry['file']}): its codes mean other things; give that one"
        )

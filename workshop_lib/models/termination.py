"""Whether a level ends: the part of a world that no next frame can show.

The games do not show their last moment. When the player gets the coin, or a monster gets the
player, the next picture is of another level. So a world that learned frames within levels knows no
end: its player runs past the coin to the last wall, and stands before it for good. A model of its
own says when it is over, from the last frames and the action, as in DIAMOND (Alonso et al. 2024,
"Diffusion for World Modeling: Visual Details Matter in Atari"); in DreamerV3 (Hafner et al. 2023)
it is a head of the world model itself.

What ends a level touches the player, and CoinRun's camera keeps the player in the middle: only the
middle of the picture is looked at. Endings are rare, one frame of a hundred, so training looks at
all of them and at some of the others; what the others lack in number is put right in the logits,
so that probabilities come out as if all had been looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib.data.clip import Clip, frames_to_video
from workshop_lib.errors import WorkshopError

ON, REWARDED, OVER = 0, 1, 2  # what follows: another frame, or the end, with a reward or without
OFTEN = 500  # frames; false alarms are counted in so many
SURE = 0.3  # chance of an end from which on it is said: to miss one is worse than to be early


@dataclass(frozen=True)
class TerminationConfig:
    """frames: how many it sees, the newest last.

    side: pixels of the square in the middle of each frame that is looked at; a multiple of 4.
    width: channels of the first layer. hidden: of the last.
    num_actions: A; actions are 0 to A - 1.
    against: in training so many frames after which the level goes on, for each ending.
    """

    frames: int = 3
    side: int = 32
    width: int = 24
    hidden: int = 64
    num_actions: int = 15
    against: float = 4.0

    def __post_init__(self) -> None:
        for name in ("frames", "side", "width", "hidden", "num_actions", "against"):
            if getattr(self, name) < 1:
                raise WorkshopError(f"model.{name} must be 1 or more, got {getattr(self, name)}")
        if self.side % 4:
            raise WorkshopError(f"model.side must be a multiple of 4, got {self.side}")


class Termination(nn.Module):
    """Says of the last frames and an action whether that action ends the level."""

    def __init__(self, config: TerminationConfig) -> None:
        super().__init__()
        self.config = config
        width, wide = config.width, 2 * config.width
        self.actions = nn.Embedding(config.num_actions, width + config.hidden)
        self.first = nn.Conv2d(3 * config.frames, width, 3, stride=2, padding=1)
        self.second = nn.Conv2d(width, wide, 3, stride=2, padding=1)
        self.third = nn.Conv2d(wide, wide, 3, padding=1)
        self.whole = nn.Linear(wide * (config.side // 4) ** 2, config.hidden)
        self.out = nn.Linear(config.hidden, 3)

    def forward(self, frames: Tensor, action: Tensor) -> Tensor:
        """uint8 (N, F, H, W, C), the last F frames, and int64 (N,) to logits (N, 3).

        Raises WorkshopError for another number of frames, for frames smaller than the square that
        is looked at, and for actions that there are not.
        """
        side, seen = self.config.side, self.config.frames
        if frames.ndim != 5 or frames.shape[1] != seen or min(frames.shape[2:4]) < side:
            raise WorkshopError(
                f"termination: frames {tuple(frames.shape)} should be (N, {seen}, H, W, C), H and"
                f" W {side} or more"
            )
        if action.device.type == "cpu" and not 0 <= action.min() <= action.max() < (
            count := self.config.num_actions
        ):
            raise WorkshopError(f"termination: actions must be 0 to {count - 1}")
        top, left = ((size - side) // 2 for size in frames.shape[2:4])
        middle = frames[:, :, top : top + side, left : left + side]
        x = frames_to_video(middle).flatten(1, 2)  # N FC side side
        at_first, at_last = self.actions(action).split([self.config.width, self.config.hidden], 1)
        x = F.silu(self.first(x) + at_first[..., None, None])
        x = F.silu(self.second(x))
        x = x + F.silu(self.third(x))
        return self.out(F.silu(self.whole(x.flatten(1)) + at_last))

    def loss(self, clip: Clip) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy, in nats, of what follows each frame that has enough others before it.

        Logs the share of the endings that are foreseen (found), and how often an ending is foreseen
        where there is none, in 500 frames (false).

        For probabilities that hold, clips must be just `frames` long: of longer ones fewer reach an
        episode's end. Raises WorkshopError for shorter clips, and where nobody recorded endings.
        """
        frames, action, target = self.windows(clip)
        log_share = 0.0
        if self.training:
            some, log_share = self._some(target)
            frames, action, target = frames[some], action[some], target[some]
        logits = self(frames, action)
        told = logits.detach().softmax(dim=1)[:, ON] < 1 - SURE
        ended = target != ON
        logs = {
            "found": (told & ended).sum() / ended.sum().clamp_min(1),
            "false": OFTEN * (told & ~ended).sum() / (~ended).sum().clamp_min(1),
        }
        offset = logits.new_tensor([log_share, 0.0, 0.0])
        return F.cross_entropy(logits + offset, target), logs

    def windows(self, clip: Clip) -> tuple[Tensor, Tensor, Tensor]:
        """All there is to learn from in a clip: uint8 (N, F, H, W, C), the action after each, and
        what it led to, int64 (N,)."""
        seen = self.config.frames
        if clip.ending is None:
            raise WorkshopError(
                "nobody recorded how these levels ended: record them with `workshop sample`"
            )
        if clip.frames.shape[1] < seen:
            raise WorkshopError(
                f"data.length must be {seen} or more: model.frames is {seen}, got clips of"
                f" {clip.frames.shape[1]}"
            )
        frames = clip.frames.unfold(1, seen, 1).movedim(-1, 2).flatten(0, 1)
        action, ending = (x[:, seen - 1 :].flatten() for x in (clip.actions, clip.ending))
        known = ending >= ON
        return frames[known], action[known], ending[known]

    def _some(self, target: Tensor) -> tuple[Tensor, float]:
        """Which windows to look at, all endings among them, and the log of the share of the others
        that are."""
        ends, others = (target != ON).nonzero()[:, 0], (target == ON).nonzero()[:, 0]
        wanted = round(self.config.against * max(1, len(ends)))
        few = others[torch.randperm(len(others), device=others.device)[:wanted]]
        share = len(few) / max(1, len(others))
        return torch.cat([ends, few]), math.log(max(share, 1e-6))

    @torch.inference_mode()
    def ending(self, frames: Tensor, action: Tensor) -> Tensor:
        """What the action leads to, int64 (N,): 0 a frame, 1 the end with a reward, 2 without.

        An end is said where its chance is above SURE, of the two kinds the likelier one. frames:
        uint8 (N, T, H, W, C); of fewer than it sees, the oldest counts as having stood still.
        """
        missing = self.config.frames - frames.shape[1]
        if missing > 0:
            frames = torch.cat([frames[:, :1]] * missing + [frames], dim=1)
        device = self.out.weight.device
        seen = frames[:, -self.config.frames :].to(device)
        chances = self(seen, action.to(device)).softmax(dim=1)
        kind = chances[:, REWARDED:].argmax(dim=1) + REWARDED
        return torch.where(chances[:, ON] < 1 - SURE, kind, ON).to(action.device)

"""How well the ends of levels are foreseen: `workshop evaluate termination`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from workshop_lib.data.clips import make_clip
from workshop_lib.data.shards import open_shard, read_all
from workshop_lib.data.splits import split_shards
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.metrics import Share, share, write_json
from workshop_lib.models.termination import OFTEN, ON, OVER, REWARDED
from workshop_lib.worlds.opening import open_termination

SOON = 8  # steps; an alarm so many before the end is early rather than wrong


@dataclass(frozen=True)
class TerminationReport:
    """coins, deaths: which share of the levels' ends with a reward, and without one, is foreseen at
        the very step. kind: of those foreseen, the share whose kind is the right one.
    real, false: in 500 frames of play, how many ends there are, and how many are foreseen at a step
        at which the level goes on.
    soon: share of these false ones that come less than 8 steps before a true end.
    """

    frames: int
    ends: int
    coins: Share
    deaths: Share
    kind: Share
    real: float
    false: float
    soon: Share

    def table(self) -> str:
        return (
            f"{self.frames} held-out frames, {self.real:.1f} ends in {OFTEN}\n"
            f"ends with the coin foreseen      {self.coins}\n"
            f"ends without it foreseen         {self.deaths}\n"
            f"the kind right, where foreseen   {self.kind}\n"
            f"false alarms in {OFTEN} frames      {self.false:.2f}, of them less than {SOON} steps"
            f" before the end {self.soon}"
        )


def evaluate(
    model: str,
    data: str = "data/hard",
    split: Literal["train", "val", "test"] = "test",
    out: str | None = None,
) -> TerminationReport:
    """Measures on all held-out episodes whose ends are known how many of them a model foresees.

    Args:
        model: the safetensors file of a termination model, or the name of a pretrained one.
        data: a split folder, of `workshop sample`, whose policy is not control: that one gives
            levels up.
        split: which of its sets.
        out: folder for report.json.

    Raises WorkshopError where nobody recorded how the levels ended.
    """
    terminates = open_termination(model)
    said, ended, before = [], [], []
    for path in split_shards(data, split):
        for episode in read_all(open_shard(path)):
            if episode.over is None:
                raise WorkshopError(f"{path}: nobody recorded how its levels ended; record anew")
            if len(episode) >= terminates.config.frames:
                frames, action, target = terminates.windows(make_clip([(episode, 0)], len(episode)))
                said.append(terminates.ending(frames, action))
                ended.append(target)
                left = torch.arange(len(target)).flip(0)
                before.append(left if target[-1] != ON else left + len(target))
    report = measure(torch.cat(said), torch.cat(ended), torch.cat(before))
    print(report.table())
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        write_json(Path(out) / "report.json", report)
        print(f"wrote {out}")
    return report


def measure(said: Tensor, ended: Tensor, left: Tensor) -> TerminationReport:
    """The report of what was said of each frame, what there was, both as Clip.ending, and how many
    steps were left before a known end; int64 (N,)."""
    alarm, end = said != ON, ended != ON
    found, false = alarm & end, alarm & ~end
    return TerminationReport(
        frames=len(said),
        ends=int(end.sum()),
        coins=share(alarm[ended == REWARDED].double()),
        deaths=share(alarm[ended == OVER].double()),
        kind=share((said == ended)[found].double()),
        real=OFTEN * float(end.double().mean()),
        false=OFTEN * float(false.double().mean()),
        soon=share((left < SOON)[false].double()),
    )

"""Long play in dreams whose levels end: `workshop evaluate levels`.

In the real game a level is over after some 30 steps of running and jumping. A dream without ends
runs on to the last wall of its level and stands there; with ends it begins anew, as the real game
does under `evaluate game`. Both play from the beginning of a level, so that their ends compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from workshop_lib.data.actions import NOTHING
from workshop_lib.evaluation.drift import DriftReport, long_play, measure_drift
from workshop_lib.evaluation.heldout import heldout_episodes
from workshop_lib.evaluation.metrics import write_json
from workshop_lib.evaluation.player import player_of
from workshop_lib.evaluation.rollout import check_keys
from workshop_lib.models.termination import OFTEN, OVER, REWARDED
from workshop_lib.worlds.ending_world import EndingState, EndingWorld
from workshop_lib.worlds.opening import open_termination, open_world

CLIPS = 256  # from which the player is known


@dataclass(frozen=True)
class LevelsReport:
    """drift: of the dreams, by what is pressed. coins, deaths: how often their levels ended with a
    reward and without one, in 500 steps of one dream."""

    model: str
    termination: str
    drift: dict[str, DriftReport]
    coins: dict[str, float]
    deaths: dict[str, float]

    def table(self) -> str:
        return "\n".join(
            f"{name}: {drift.line()}; in {OFTEN} steps {self.coins[name]:.1f} levels end with the"
            f" coin, {self.deaths[name]:.1f} without"
            for name, drift in self.drift.items()
        )


class Counting:
    """A world whose levels end, and how they did. Where it looks back on more frames than a prompt
    has, the player stands still before that, as he does when a level begins."""

    def __init__(self, world: EndingWorld) -> None:
        self.world, self.counts = world, torch.zeros(3)
        self.num_actions, self.context = world.num_actions, world.context

    def begin(self, frames: Tensor, actions: Tensor) -> EndingState:
        before = max(0, self.context - frames.shape[1])
        longer = torch.cat([frames[:, :1]] * before + [frames], dim=1)
        return self.world.begin(longer, F.pad(actions, (before, 0), value=NOTHING))

    def step(self, state: EndingState, action: Tensor) -> tuple[Tensor, EndingState]:
        frame, following = self.world.step(state, action)
        self.counts += torch.bincount(following.ended, minlength=3)
        return frame, following


def evaluate(
    model: str,
    data: str = "data/easy",
    termination: str = "termination-tiny",
    split: Literal["train", "val", "test"] = "test",
    dreams: int = 8,
    prompt: int = 8,
    long: int = 500,
    tokenizer: str | None = None,
    lam: str | None = None,
    steps: int | None = None,
    temperature: float | None = None,
    device: str = "auto",
    seed: int = 0,
    out: str | None = None,
) -> LevelsReport:
    """Measures long dreams as `workshop evaluate world` does, but from the beginning of held-out
    levels, and when a level is over, it begins anew. `workshop evaluate game` says what the real
    game has there.

    Args:
        model: the safetensors file of a world's model, or the name of a pretrained one.
        data: a split folder.
        termination: of the model that says when a level is over, the same.
        split: which of its sets.
        dreams: how many, side by side, each of another level.
        prompt: frames of each level that the world is shown, its first ones.
        long: frames that it then dreams.
        tokenizer: the safetensors file of the tokenizer, for worlds of tokens; in a world of pixels
            dreamed frames pass through it. "none": not even through the model's own.
        lam: the safetensors file of the latent action model, for worlds driven by its codes.
        steps: how often each frame is refined, for worlds that have steps.
        temperature: how freely a world of tokens draws; 0 takes what is likeliest.
        device: where it dreams: cpu, cuda, or auto for the GPU if there is one.
        seed: of the choice of clips and of the keys.
        out: folder for report.json and a film of the first dream of each kind.
    """
    ends = open_termination(termination)
    world = open_world(model, tokenizer, lam, device, steps=steps, temperature=temperature)
    check_keys(world)
    finder = player_of(heldout_episodes(data, split, CLIPS, prompt + 1, seed).frames, seed)
    clip = heldout_episodes(data, split, dreams, prompt, seed, beginnings=True)
    frames, actions = clip.frames, clip.actions[:, :-1]
    drift, films, coins, deaths = {}, {}, {}, {}
    for name, pressed in long_play(len(frames), long, seed).items():
        counting = Counting(EndingWorld(world, ends))
        drift[name], films[name] = measure_drift(counting, frames, actions, pressed, finder)
        often = OFTEN * counting.counts / pressed.numel()
        coins[name], deaths[name] = float(often[REWARDED]), float(often[OVER])
    report = LevelsReport(Path(model).name, Path(termination).name, drift, coins, deaths)
    print(report.table())
    if out is not None:
        _write(Path(out), report, films)
        print(f"wrote {out}")
    return report


def _write(folder: Path, report: LevelsReport, films: dict[str, Tensor]) -> None:
    from workshop_lib.media.picture import enlarge
    from workshop_lib.media.video import write_video

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "report.json", report)
    for name, film in films.items():
        write_video(folder / f"long-{name.replace(' ', '-')}.mp4", enlarge(film.numpy(), 4))

"""Long rollouts: whether a dream lives on after hundreds of frames, or fades, freezes or boils."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workshop_lib.data.actions import RIGHT, RIGHT_JUMP
from workshop_lib.data.policies import make_policy
from workshop_lib.evaluation.metrics import contrast, sharpness
from workshop_lib.evaluation.shift import scroll
from workshop_lib.worlds.world import World

STILL = 0.5  # levels of 255: a picture that changes by less, on average, stands still
# A picture with less of the prompt's contrast or sharpness shows nothing, a much sharper one noise.
LEAST, MOST = 0.25, 4.0
SEGMENTS = 10
STRETCH = 8  # steps, in which a player running right comes 5 to 12 pixels further
CAME_IN = 4  # pixels, the least that counts as going on
FRESH = 0.5  # of the real sharpness


@dataclass(frozen=True)
class DriftReport:
    """What became of B dreams of `steps` frames. All lists have one entry per tenth of the time.

    contrast, sharpness: of the dreamed pictures over those of the prompts; 1 is as at first. A
        fading dream loses both, a boiling one gains sharpness.
    still: share of steps at which the picture did not move (less than half a level of 255).
    alive: share of dreams whose last picture still looks like one: a quarter of the prompt's
        contrast and sharpness or more, and at most four times its sharpness.
    fresh: share of stretches of 8 steps in which 4 pixels of level or more came in from the right,
        and the quarter of the picture where it came in was half as sharp as the prompts' or more
        (and at most four times): the dream went on inventing level.
    """

    steps: int
    dreams: int
    contrast: list[float]
    sharpness: list[float]
    still: list[float]
    alive: float
    fresh: float

    def line(self) -> str:
        return (
            f"{self.steps} steps, {self.dreams} dreams: {100 * self.alive:.0f}% alive; at the end "
            f"contrast {100 * self.contrast[-1]:.0f}%, sharpness {100 * self.sharpness[-1]:.0f}% "
            f"of the prompt's; still {100 * float(np.mean(self.still)):.0f}% of the time; "
            f"fresh level in {100 * self.fresh:.0f}% of the stretches"
        )


@torch.inference_mode()
def measure_drift(
    world: World, frames: Tensor, actions: Tensor, pressed: Tensor
) -> tuple[DriftReport, Tensor]:
    """Dreams on and on, and watches the pictures.

    frames: uint8 (B, T, H, W, C) and actions: int64 (B, T - 1), the prompt. pressed: int64 (B, K).

    Returns the report, and the first dream whole: uint8 (K, H, W, C).
    """
    state = world.begin(frames, actions)
    before, first, marks = frames[:, -1], [], [frames[:, -1]]
    seen: dict[str, list[Tensor]] = {"contrast": [], "sharpness": [], "still": []}
    for action in pressed.unbind(dim=1):
        picture, state = world.step(state, action)
        picture = picture.cpu()
        seen["contrast"].append(contrast(picture))
        seen["sharpness"].append(sharpness(picture))
        moved = (picture.float() - before.float()).abs().mean(dim=(1, 2, 3))
        seen["still"].append((moved < STILL).float())
        first.append(picture[0])
        before = picture
        if len(first) % STRETCH == 0:
            marks.append(picture)
    at_first = {"contrast": contrast(frames).mean(), "sharpness": sharpness(frames).mean()}
    tenths = {
        name: [
            float(part.mean() / at_first.get(name, 1.0))
            for part in torch.stack(values).tensor_split(min(SEGMENTS, len(values)))
        ]
        for name, values in seen.items()
    }
    left = contrast(before) / contrast(frames).mean(dim=1)
    edges = sharpness(before) / sharpness(frames).mean(dim=1)
    alive = (left >= LEAST) & (edges >= LEAST) & (edges <= MOST)
    report = DriftReport(
        pressed.shape[1],
        len(frames),
        **tenths,
        alive=float(alive.float().mean()),
        fresh=invented(torch.stack(marks), sharpness(_right(frames)).mean()),
    )
    return report, torch.stack(first)


def invented(marks: Tensor, real: Tensor) -> float:
    """Share of stretches in which sharp level came in from the right.

    marks: uint8 (M, B, H, W, C), the pictures between the stretches. real: (), how sharp the
        right quarter of real pictures is. 0 without a whole stretch.
    """
    if len(marks) < 2:
        return 0.0
    moved = -scroll(marks[:-1].flatten(0, 1), marks[1:].flatten(0, 1))[:, 0]
    edge = sharpness(_right(marks[1:].flatten(0, 1))) / real
    fresh = (moved >= CAME_IN) & (edge >= FRESH) & (edge <= MOST)
    return float(fresh.float().mean())


def _right(frames: Tensor) -> Tensor:
    """The right quarter of (..., H, W, C)."""
    return frames[..., frames.shape[-2] * 3 // 4 :, :]


def long_play(dreams: int, steps: int, seed: int = 0) -> Mapping[str, Tensor]:
    """Three ways to play on and on, each int64 (dreams, steps): RIGHT held; run and jump, RIGHT
    with a jump held for 6 of every 24 steps, which gets over most of what is in the way; and a
    player's keys."""
    policy = make_policy("mixed", dreams, seed)
    first = np.ones(dreams, dtype=bool)
    played = [policy.choose(first)[0]] + [policy.choose(~first)[0] for _ in range(steps - 1)]
    jumps = torch.arange(steps) % 24 >= 18
    return {
        "right held": torch.full((dreams, steps), RIGHT),
        "run and jump": torch.where(jumps, RIGHT_JUMP, RIGHT).expand(dreams, -1),
        "mixed keys": torch.from_numpy(np.stack(played, axis=1)),
    }

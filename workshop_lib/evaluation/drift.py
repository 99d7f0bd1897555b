"""Long rollouts: whether a dream lives on for hundreds of frames, or fades, freezes or boils."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workshop_lib.data.actions import RIGHT, RIGHT_JUMP
from workshop_lib.data.policies import make_policy
from workshop_lib.evaluation.metrics import contrast, edges, sharpness
from workshop_lib.evaluation.player import PlayerFinder
from workshop_lib.evaluation.shift import scroll
from workshop_lib.worlds.world import World

STILL = 0.5  # levels of 255: a picture that changes by less, on average, stands still
# Of the prompt: weaker edges are a mist's, other colors a fever's, much more sharpness is noise.
# After 40 frames of real play 99 of 100 pictures keep to these, on easy levels and on hard ones.
EDGES, COLORS, MOST = 0.5, 0.75, 4.0
BINS = 32  # of each primary color
NEAR = 5  # bins; two on each side, 16 levels of 255, are the same color
SEGMENTS = 10
STRETCH = 8  # steps, in which a player running right comes 5 to 12 pixels further
CAME_IN = 4  # pixels, the least that counts as going on
FRESH = 0.5  # of the real sharpness


@dataclass(frozen=True)
class DriftReport:
    """What became of B dreams of `steps` frames. All lists have one entry per tenth of the time.

    contrast, sharpness, edges: of the dreamed pictures over those of the prompts; 1 is as at
        first. A fading dream loses all three, a boiling one gains sharpness, and a mist with
        texture keeps the first two but not the edges.
    colors: share of pixels whose color was somewhere in the prompt, but for 16 levels of 255.
    player: share of pictures with the player in the middle; None where nobody looked.
    still: share of steps at which the picture did not move (less than half a level of 255).
    alive: share of dreams that end in a level with its player: over the last 8 frames, most have
        half of the prompt's edges or more, at most four times its sharpness, three quarters of
        their pixels in its colors, and the player.
    lasted: steps after which the median dream never was alive again. (One that passes through
        the open sky has few edges for a while.)
    fresh: share of stretches of 8 steps in which 4 pixels of level or more came in from the right,
        and the quarter of the picture where it came in was half as sharp as the prompts' or more
        (and at most four times): the dream went on inventing level.
    """

    steps: int
    dreams: int
    contrast: list[float]
    sharpness: list[float]
    edges: list[float]
    colors: list[float]
    player: list[float] | None
    still: list[float]
    alive: float
    lasted: int
    fresh: float

    def line(self) -> str:
        player = "" if self.player is None else f", player in {100 * self.player[-1]:.0f}%"
        return (
            f"{self.steps} steps, {self.dreams} dreams: {100 * self.alive:.0f}% alive at the end, "
            f"half of them for {self.lasted} steps; in the last tenth "
            f"contrast {100 * self.contrast[-1]:.0f}%, sharpness {100 * self.sharpness[-1]:.0f}%, "
            f"edges {100 * self.edges[-1]:.0f}% of the prompt's, "
            f"{100 * self.colors[-1]:.0f}% in its colors{player}; "
            f"still {100 * float(np.mean(self.still)):.0f}% of the time; "
            f"fresh level in {100 * self.fresh:.0f}% of the stretches"
        )


@torch.inference_mode()
def measure_drift(
    world: World,
    frames: Tensor,
    actions: Tensor,
    pressed: Tensor,
    finder: PlayerFinder | None = None,
) -> tuple[DriftReport, Tensor]:
    """Dreams on and on, and watches the pictures.

    frames: uint8 (B, T, H, W, C) and actions: int64 (B, T - 1), the prompt. pressed: int64 (B, K).
    finder: sees the player (`player.player_of`); without one, only the level counts.

    Returns the report, and the first dream whole: uint8 (K, H, W, C).
    """
    measures = {"contrast": contrast, "sharpness": sharpness, "edges": edges}
    at_first = {name: measure(frames).mean(dim=1) for name, measure in measures.items()}
    known = palette(frames)
    state = world.begin(frames, actions)
    before, first, marks = frames[:, -1], [], [frames[:, -1]]
    seen: dict[str, list[Tensor]] = {
        name: [] for name in (*measures, "colors", "still", "player", "whole")
    }
    for action in pressed.unbind(dim=1):
        picture, state = world.step(state, action)
        picture = picture.cpu()
        for name, measure in measures.items():
            seen[name].append(measure(picture))
        moved = (picture.float() - before.float()).abs().mean(dim=(1, 2, 3))
        seen["still"].append((moved < STILL).float())
        there = torch.ones(len(picture)) if finder is None else finder.sees(picture).float()
        level = seen["edges"][-1] >= EDGES * at_first["edges"]
        quiet = seen["sharpness"][-1] <= MOST * at_first["sharpness"]
        familiar = in_palette(picture, known)
        seen["colors"].append(familiar)
        seen["player"].append(there)
        seen["whole"].append(there * level * quiet * (familiar >= COLORS))
        first.append(picture[0])
        before = picture
        if len(first) % STRETCH == 0:
            marks.append(picture)
    tenths = {
        name: [
            float(part.mean() / (at_first[name].mean() if name in at_first else 1))
            for part in torch.stack(seen[name]).tensor_split(min(SEGMENTS, len(first)))
        ]
        for name in (*measures, "colors", "player", "still")
    }
    alive = living(torch.stack(seen["whole"], dim=1))
    report = DriftReport(
        pressed.shape[1],
        len(frames),
        contrast=tenths["contrast"],
        sharpness=tenths["sharpness"],
        edges=tenths["edges"],
        colors=tenths["colors"],
        player=None if finder is None else tenths["player"],
        still=tenths["still"],
        alive=float(alive[:, -1].float().mean()),
        lasted=int((alive * torch.arange(1, len(first) + 1)).amax(dim=1).median()),
        fresh=invented(torch.stack(marks), sharpness(_right(frames)).mean()),
    )
    return report, torch.stack(first)


def palette(frames: Tensor) -> Tensor:
    """Which colors, in 32 bins of each primary, are in some picture of a clip or near to one that
    is: uint8 (B, T, H, W, 3) to float (B, 32^3), 1 or 0."""
    seen = torch.zeros(len(frames), BINS**3, device=frames.device)
    seen.scatter_(1, _bins(frames).flatten(1), 1.0)
    cube = seen.view(-1, 1, BINS, BINS, BINS)
    return torch.nn.functional.max_pool3d(cube, NEAR, stride=1, padding=NEAR // 2).flatten(1)


def in_palette(pictures: Tensor, colors: Tensor) -> Tensor:
    """Share of the pixels of uint8 (B, H, W, 3) whose color is in the palette: (B,)."""
    return colors.gather(1, _bins(pictures).flatten(1)).mean(dim=1)


def _bins(frames: Tensor) -> Tensor:
    red, green, blue = (frames.long() * BINS // 256).unbind(dim=-1)
    return (red * BINS + green) * BINS + blue


def living(whole: Tensor) -> Tensor:
    """Whether most of the last 8 pictures were whole: (B, K) of 0 and 1 to bool (B, K)."""
    total = torch.nn.functional.pad(whole, (1, 0)).cumsum(dim=1)
    ends = torch.arange(1, whole.shape[1] + 1)
    begins = (ends - STRETCH).clamp_min(0)
    return (total[:, ends] - total[:, begins]) * 2 > ends - begins


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

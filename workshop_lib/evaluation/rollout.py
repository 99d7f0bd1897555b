"""Open-loop rollouts: how well a world keeps to the truth on its own pictures.

A world is shown the first frames of a held-out episode and then only told what was pressed. What
it dreams is compared with what really came, frame by frame, and with two controls: the last frame
of the prompt copied, and the same world under another episode's actions. A world that does as well
under wrong actions does not listen to them.
"""

from __future__ import annotations

import csv
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from workshop_lib.data.actions import NUM_ACTIONS
from workshop_lib.data.clip import Clip
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.lpips import Lpips
from workshop_lib.evaluation.metrics import (
    Score,
    Share,
    psnr_of,
    ratio,
    score,
    share,
    sharpness,
    squared_error,
    ssim,
)
from workshop_lib.worlds.opening import options_of
from workshop_lib.worlds.world import World

BATCH = 32
SHOWN = (1, 2, 4, 8, 16, 32)  # horizons in the printed table and in pictures


@dataclass(frozen=True)
class AtHorizon:
    """What was measured `horizon` frames after the prompt, each with the clips as the sample.

    psnr in dB, ssim, mse (colors from 0 to 1): the dream against the truth; copy_...: the prompt's
        last frame against it; shuffled_...: the dream under another clip's actions against it.
    wins: share of clips in which the true actions beat the others' (ties count half; chance 50%).
    advantage: dB of the true actions over the others', clip by clip.
    sharpness: of the dreamed pictures over that of the true ones; below 1 it is a blur.
    """

    horizon: int
    psnr: Score
    ssim: Score
    mse: Score
    copy_psnr: Score
    copy_ssim: Score
    copy_mse: Score
    shuffled_psnr: Score
    shuffled_mse: Score
    wins: Share
    advantage: Score
    sharpness: Score


@dataclass(frozen=True)
class AtHorizonSeen(AtHorizon):
    """With LPIPS (lpips.py) in addition: 0 is the same picture; less is better."""

    lpips: Score
    copy_lpips: Score
    shuffled_lpips: Score


@dataclass(frozen=True)
class RolloutReport:
    """clips: how many held-out episodes; prompt: frames that the world was shown of each;
    options: how the world dreamed, its steps and sampler, say, where it has them."""

    clips: int
    prompt: int
    options: dict[str, int | float | str]
    at: tuple[AtHorizon, ...]

    def table(self) -> str:
        rows = [["frame", "PSNR, dB", "copying", "SSIM", "shuffled actions", "true win", "sharp"]]
        if isinstance(self.at[0], AtHorizonSeen):
            rows[0] += ["LPIPS", "copying"]
        for at in self.at:
            if at.horizon in SHOWN or at is self.at[-1]:
                rows.append(
                    [
                        str(at.horizon), str(at.psnr), str(at.copy_psnr), f"{at.ssim.mean:.3f}",
                        str(at.shuffled_psnr), str(at.wins), f"{100 * at.sharpness.mean:.0f}%",
                    ]
                )  # fmt: skip
                if isinstance(at, AtHorizonSeen):
                    rows[-1] += [f"{at.lpips.mean:.3f}", f"{at.copy_lpips.mean:.3f}"]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([f"{self.clips} clips after {self.prompt} frames of prompt", *lines])


@torch.inference_mode()
def dream(world: World, frames: Tensor, actions: Tensor, pressed: Tensor) -> Tensor:
    """What a world shows after a prompt, its own pictures fed back.

    frames: uint8 (B, T, H, W, C) and actions: int64 (B, T - 1), the prompt.
    pressed: int64 (B, K), what is pressed from then on.

    Returns uint8 (B, K, H, W, C).
    """
    dreamed = []
    for part in torch.arange(len(frames)).split(BATCH):
        state = world.begin(frames[part], actions[part])
        pictures = []
        for action in pressed[part].unbind(dim=1):
            picture, state = world.step(state, action)
            pictures.append(picture.cpu())
        dreamed.append(torch.stack(pictures, dim=1))
    return torch.cat(dreamed)


def check_keys(world: World) -> None:
    """Raises WorkshopError for a world that is not driven by the game's 15 keys."""
    if world.num_actions != NUM_ACTIONS:
        raise WorkshopError(
            f"this world takes {world.num_actions} actions, not the game's {NUM_ACTIONS} keys: a "
            f"latent action model needs the code of each key (key_codes)"
        )


def measure(
    world: World, clip: Clip, prompt: int = 8, seed: int = 0, lpips: Lpips | None = None
) -> tuple[RolloutReport, Tensor]:
    """Compares a world's dreams with clips, all frames after the first `prompt` of them.

    seed: of who gets whose actions. lpips: measure by that, too.

    Returns the report and the dreams, uint8 (B, T - prompt, H, W, C).

    Raises WorkshopError for fewer than two clips, none of which is longer than the prompt, for
    clips without actions, and for a world that does not take the game's keys.
    """
    check_keys(world)
    B, T = clip.actions.shape
    if B < 2 or not 1 <= prompt < T:
        raise WorkshopError(f"{B} clips of {T} frames: need 2 clips longer than prompt {prompt}")
    if clip.actions.min() < 0:
        raise WorkshopError("these clips were recorded without actions; worlds need them")
    shown, past = clip.frames[:, :prompt], clip.actions[:, : prompt - 1]
    pressed, real = clip.actions[:, prompt - 1 : T - 1], clip.frames[:, prompt:]
    dreamed = dream(world, shown, past, pressed)
    misled = dream(world, shown, past, pressed[strangers(B, seed)])
    still = shown[:, -1:].expand_as(real)
    at = tuple(
        _at_horizon(h + 1, real[:, h], dreamed[:, h], misled[:, h], still[:, h], lpips)
        for h in range(T - prompt)
    )
    return RolloutReport(B, prompt, options_of(world), at), dreamed


def strangers(count: int, seed: int = 0) -> Tensor:
    """Everyone's partner in a random circle, int64 (count,): nobody is their own."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)
    return partner


def _at_horizon(
    horizon: int,
    real: Tensor,
    dreamed: Tensor,
    misled: Tensor,
    still: Tensor,
    lpips: Lpips | None = None,
) -> AtHorizon:
    """All uint8 (B, H, W, C), the pictures of one moment."""
    error, copy_error, misled_error = (squared_error(x, real) for x in (dreamed, still, misled))
    right = (error < misled_error).double() + (error == misled_error).double() / 2
    at = AtHorizon(
        horizon=horizon,
        psnr=score(psnr_of(error)),
        ssim=score(ssim(dreamed, real)),
        mse=score(error),
        copy_psnr=score(psnr_of(copy_error)),
        copy_ssim=score(ssim(still, real)),
        copy_mse=score(copy_error),
        shuffled_psnr=score(psnr_of(misled_error)),
        shuffled_mse=score(misled_error),
        wins=share(right),
        advantage=score(psnr_of(error) - psnr_of(misled_error)),
        sharpness=ratio(sharpness(dreamed), sharpness(real)),
    )
    if lpips is None:
        return at
    apart = [score(lpips(frames, real)) for frames in (dreamed, still, misled)]
    return AtHorizonSeen(**vars(at), lpips=apart[0], copy_lpips=apart[1], shuffled_lpips=apart[2])


def write_csv(path: Path, report: RolloutReport) -> None:
    """A row for each horizon: every mean under its name, the intervals beside it."""
    rows = []
    for at in report.at:
        row: dict[str, float] = {}
        for key, value in asdict(at).items():
            parts = value if isinstance(value, dict) else {"mean": value}
            row |= {key if k == "mean" else f"{key}_{k}": v for k, v in parts.items()}
        rows.append(row)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)

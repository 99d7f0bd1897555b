"""Counterfactuals: does the world do what is pressed? `workshop evaluate control`.

From one moment of the real game, LEFT and RIGHT are held, there and in the dream. The dream is
right about LEFT if its picture is nearer to the real LEFT than to the real RIGHT, and the other
way round. Error against the one true future cannot tell this: a sharp, steerable dream that is
a pixel off scores worse there than a blur that hears nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from workshop_lib.data.actions import ACTIONS, LEFT, RIGHT
from workshop_lib.data.game import Look
from workshop_lib.data.sampling import parse_levels
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.metrics import (
    Score,
    Share,
    psnr_of,
    ratio,
    score,
    share,
    squared_error,
    write_json,
)
from workshop_lib.evaluation.rollout import check_keys, dream
from workshop_lib.evaluation.shift import scroll
from workshop_lib.evaluation.starts import KEYS, Starts, collect_starts, load_starts, save_starts
from workshop_lib.evaluation.stretches import StretchReport, find_stretches, measure_stretches
from workshop_lib.models.diffusion_math import SamplerName
from workshop_lib.worlds.opening import open_world, options_of
from workshop_lib.worlds.world import World

HORIZONS = (1, 4, 8, 12)
PAIRS = ((0, 1), (2, 3), (0, 3), (1, 3))  # of KEYS: left/right, jump/nothing, and so on
WITHIN = 2  # pixels by which a scroll may be off
DRAWN = 4  # moments on the sheet


@dataclass(frozen=True)
class ControlAt:
    """How well a world is steered, `horizon` frames after the moment; intervals over the starts.

    accuracy: by pair of keys, such as "left/right": how often the dreamed picture is nearer to
        the real one of its own key than to the real one of the other. Only starts at which the
        real pictures differ count; ties count half; chance is 50%.
    gain: how far the dreamed LEFT and RIGHT are scrolled apart, over how far the real ones are.
    within2: share of dreamed LEFT and RIGHT that are scrolled as the real ones to 2 pixels.
    psnr, copy_psnr: dB of a start's four pictures together, dreamed, and the prompt's last copied.
    """

    horizon: int
    accuracy: dict[str, Share]
    gain: Score
    within2: Share
    psnr: Score
    copy_psnr: Score


@dataclass(frozen=True)
class ControlReport:
    """starts: how many moments, of levels of this look; prompt: frames that the world was shown;
    options: how the world dreamed, its steps and sampler, say, where it has them."""

    starts: int
    look: str
    prompt: int
    options: dict[str, int | float | str]
    at: tuple[ControlAt, ...]

    def table(self) -> str:
        pairs = list(self.at[0].accuracy)
        rows = [["frame", *pairs, "gain", "within 2 px", "PSNR, dB", "copying"]]
        for at in self.at:
            rows.append(
                [
                    str(at.horizon), *(str(at.accuracy[pair]) for pair in pairs), str(at.gain),
                    f"{100 * at.within2.mean:.0f}%", str(at.psnr), f"{at.copy_psnr.mean:.2f}",
                ]
            )  # fmt: skip
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
        head = f"{self.starts} moments of {self.look} levels, {self.prompt} frames of prompt"
        return "\n".join([head, *lines])


def evaluate(
    model: str,
    look: Look = "easy",
    levels: str = "test",
    starts: int = 256,
    starts_file: str | None = None,
    data: str | None = None,
    tokenizer: str | None = None,
    lam: str | None = None,
    steps: int | None = None,
    temperature: float | None = None,
    sampler: SamplerName | None = None,
    guidance: float | None = None,
    device: str = "auto",
    seed: int = 0,
    out: str | None = None,
) -> ControlReport | StretchReport:
    """Measures whether a world does what is pressed, against the real game from the same moments.

    Args:
        model: the safetensors file of a world's model, or the name of a pretrained one.
        look: of the real game: mono, easy or hard.
        levels: START:STOP or train, val or test; take levels that it was not trained on.
        starts: how many moments of the real game, each of another level.
        starts_file: an .npz file of moments: read if it is there (no simulator needed, and look,
            levels and seed are the file's own), else written.
        data: a split folder, for machines without both: recorded stretches of LEFT and RIGHT in
            its test set are dreamed, as pressed and with the keys exchanged.
        tokenizer: the safetensors file of the tokenizer, for worlds of tokens; in a world of pixels
            dreamed frames pass through it. "none": not even through the model's own.
        lam: the safetensors file of the latent action model, for worlds driven by its codes.
        steps: how often each frame is refined, for worlds that have steps.
        temperature: how freely a world of tokens draws; 0 takes what is likeliest.
        sampler: of the noise, in worlds of diffusion; by default the world's own.
        guidance: there, how much more the action counts; 1 is no more, at half the price.
        device: where it dreams: cpu, cuda, or auto for the GPU if there is one.
        seed: of the choice of moments.
        out: folder for control.json, control.png and counterfactuals.png.
    """
    options = {"steps": steps, "temperature": temperature, "sampler": sampler, "guidance": guidance}
    world = open_world(model, tokenizer, lam, device, **options)
    check_keys(world)
    if data is not None:
        stretches = measure_stretches(world, find_stretches(data, "test", starts))
        print(stretches.table())
        if out is not None:
            write_json(Path(out) / "stretches.json", stretches)
        return stretches
    moments = _starts(starts_file, starts, look, levels, seed)
    report, dreamed = measure_control(world, moments)
    print(report.table())
    if out is not None:
        write_report(Path(out), report, moments, dreamed)
        print(f"wrote {out}")
    return report


def _starts(file: str | None, count: int, look: Look, levels: str, seed: int) -> Starts:
    """Recorded ones, or freshly collected ones, which are then recorded."""
    if file is not None and Path(file).is_file():
        return load_starts(file)[:count]
    starts = collect_starts(count, look, parse_levels(levels), seed)
    if file is not None:
        save_starts(file, starts)
    return starts


def measure_control(
    world: World, starts: Starts, horizons: tuple[int, ...] = HORIZONS
) -> tuple[ControlReport, Tensor]:
    """Holds each key in the world's dreams as in the real game, and compares.

    Horizons that the starts do not have are left out.

    Returns the report and the dreams, uint8 (S, 4, K, H, W, C), K the longest horizon.

    Raises WorkshopError if no horizon is left, or for a world that does not take the game's keys.
    """
    check_keys(world)
    asked = [horizon for horizon in horizons if horizon in starts.horizons]
    if not asked:
        raise WorkshopError(f"these starts hold horizons {starts.horizons}, none of {horizons}")
    held = [torch.full((len(starts), max(asked)), key) for key in KEYS]
    dreamed = torch.stack(
        [dream(world, starts.frames, starts.actions, keys) for keys in held], dim=1
    )
    now = starts.frames[:, -1]
    at = tuple(
        _at_horizon(h, now, starts.branches[:, :, starts.horizons.index(h)], dreamed[:, :, h - 1])
        for h in asked
    )
    about = len(starts), starts.look, starts.frames.shape[1], options_of(world)
    return ControlReport(*about, at), dreamed


def _at_horizon(horizon: int, now: Tensor, real: Tensor, dreamed: Tensor) -> ControlAt:
    """now: uint8 (S, H, W, C), the prompt's last frame. real, dreamed: uint8 (S, 4, H, W, C)."""
    names = [ACTIONS[key].name for key in KEYS]
    sides = [KEYS.index(LEFT), KEYS.index(RIGHT)]
    real_scroll = torch.stack([scroll(now, real[:, k])[:, 0] for k in sides], dim=1)
    dream_scroll = torch.stack([scroll(now, dreamed[:, k])[:, 0] for k in sides], dim=1)
    return ControlAt(
        horizon=horizon,
        accuracy={
            f"{names[a]}/{names[b]}": share(nearer(real[:, [a, b]], dreamed[:, [a, b]]))
            for a, b in PAIRS
        },
        gain=ratio(dream_scroll[:, 0] - dream_scroll[:, 1], real_scroll[:, 0] - real_scroll[:, 1]),
        within2=share(((dream_scroll - real_scroll).abs() <= WITHIN).double().mean(dim=1)),
        psnr=score(psnr_of(squared_error(dreamed, real).mean(dim=1))),
        copy_psnr=score(psnr_of(squared_error(now[:, None], real).mean(dim=1))),
    )


def nearer(real: Tensor, dreamed: Tensor) -> Tensor:
    """How often each start's two dreams are nearer to their own truth than to the other one.

    real, dreamed: uint8 (S, 2, H, W, C).

    Returns float (n,), 0, 1/2 or 1 each, for the n starts whose two truths differ.
    """
    real, dreamed = (x[(real[:, 0] != real[:, 1]).flatten(1).any(dim=1)] for x in (real, dreamed))
    own = squared_error(dreamed, real)  # (n, 2)
    other = squared_error(dreamed, real.flip(1))
    right = (own < other).double() + (own == other).double() / 2
    return right.mean(dim=1)


def write_report(folder: Path, report: ControlReport, starts: Starts, dreamed: Tensor) -> None:
    """The table and two pictures. dreamed: uint8 (S, 4, K, H, W, C)."""
    from workshop_lib.media.rollout_plots import counterfactual_sheet
    from workshop_lib.media.sheet import write_image

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "control.json", report)
    draw_accuracy(folder / "control.png", report)
    shown = [h for h in (4, 8, 12) if h in starts.horizons and h <= dreamed.shape[2]]
    sides = [KEYS.index(LEFT), KEYS.index(RIGHT)]
    recorded, dreamt = [starts.horizons.index(h) for h in shown], [h - 1 for h in shown]
    sheets = [
        counterfactual_sheet(
            starts.frames[n, -1],
            starts.branches[n, sides][:, recorded],
            dreamed[n, sides][:, dreamt],
            shown,
        )
        for n in range(min(DRAWN, len(starts)))
    ]
    write_image(folder / "counterfactuals.png", np.concatenate(sheets, axis=1))


def draw_accuracy(path: Path, report: ControlReport) -> None:
    """Accuracy by pair of keys, and the gain, against the horizon."""
    from workshop_lib.media.rollout_plots import horizon_plot

    even = [0.0] * len(report.at)
    accuracy = {
        pair: (
            [at.accuracy[pair].mean for at in report.at],
            [(at.accuracy[pair].high - at.accuracy[pair].low) / 2 for at in report.at],
        )
        for pair in report.at[0].accuracy
    }
    gain = [at.gain.mean for at in report.at], [at.gain.interval for at in report.at]
    told, scrolled = "right key told from wrong", "gain: scroll over the true scroll"
    panels = {
        told: {**accuracy, "chance": ([0.5] * len(even), even)},
        scrolled: {"left/right": gain},
    }
    horizons = [at.horizon for at in report.at]
    horizon_plot(panels, horizons, limits={told: (0.0, 1.02)}).savefig(path)

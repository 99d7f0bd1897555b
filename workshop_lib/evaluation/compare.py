"""All worlds beside each other, one table and one figure: `workshop evaluate worlds`."""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from workshop_lib.data.clip import Clip
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.control import ControlReport, measure_control
from workshop_lib.evaluation.drift import DriftReport, long_play, measure_drift
from workshop_lib.evaluation.heldout import heldout_episodes
from workshop_lib.evaluation.lpips import Lpips
from workshop_lib.evaluation.metrics import write_json
from workshop_lib.evaluation.player import PlayerFinder, player_of
from workshop_lib.evaluation.rollout import AtHorizonSeen, RolloutReport, measure
from workshop_lib.evaluation.starts import Starts, load_starts
from workshop_lib.models.diffusion_math import SamplerName
from workshop_lib.worlds.copy_world import CopyWorld
from workshop_lib.worlds.opening import choose_device, open_world, share_options
from workshop_lib.worlds.world import World

if TYPE_CHECKING:
    from workshop_lib.media.comparison_plots import Pictured

DREAMS = 8  # long ones, side by side
SHOWN = (1, 8, 16, 32)  # horizons of the table's PSNR
TOLD = 8  # the horizon of the table's steering
SHEET = (1, 2, 4, 8, 12, 16)
PLAYED = 24  # steps of which the median time is taken
COPY = "copy of the last frame"


@dataclass(frozen=True)
class Compared:
    """One world's figures.

    control: None where no moments were given. drift: of long dreams, by what is pressed.
    milliseconds: for a frame of one dream, the median; cpu: of all cores together.
    """

    name: str
    rollout: RolloutReport
    control: ControlReport | None
    drift: dict[str, DriftReport]
    milliseconds: float
    cpu: float

    def row(self) -> dict[str, str]:
        """What the table says of it, by column."""
        cells: dict[str, str] = {}
        at = {each.horizon: each for each in self.rollout.at}
        for horizon in SHOWN:
            if horizon in at:
                cells[f"PSNR at {horizon}, dB"] = f"{at[horizon].psnr.mean:.1f}"
        last = at.get(TOLD, self.rollout.at[-1])
        cells["wrong keys"] = f"{last.shuffled_psnr.mean:.1f}"
        cells["sharpness"] = f"{100 * last.sharpness.mean:.0f}%"
        if isinstance(last, AtHorizonSeen):
            cells["LPIPS"] = f"{last.lpips.mean:.3f}"
        if self.control is not None:
            told = self.control.at[-1]
            for each in self.control.at:
                if each.horizon <= TOLD:
                    told = each
            for pair in ("left/right", "jump/nothing"):
                cells[pair] = f"{100 * told.accuracy[pair].mean:.1f}%"
            cells["gain"] = f"{told.gain.mean:.2f}"
        if self.drift:
            alive = [drift.alive for drift in self.drift.values()]
            steps = next(iter(self.drift.values())).steps
            cells[f"alive after {steps}"] = f"{100 * sum(alive) / len(alive):.0f}%"
        for name, drift in self.drift.items():
            if name != "mixed keys":
                cells[f"fresh, {name}"] = f"{100 * drift.fresh:.0f}%"
        cells["ms a frame"] = f"{self.milliseconds:.0f}"
        return cells


@dataclass(frozen=True)
class Comparison:
    worlds: tuple[Compared, ...]

    def rows(self) -> list[list[str]]:
        """The table with its head; a column for every figure that any world has."""
        cells = [world.row() for world in self.worlds]
        columns = list(dict.fromkeys(column for row in cells for column in row))
        body = [
            [world.name, *(row.get(column, "") for column in columns)]
            for world, row in zip(self.worlds, cells, strict=True)
        ]
        return [["", *columns], *body]

    def table(self) -> str:
        """In Markdown."""
        rows = self.rows()
        rows.insert(1, ["---"] * len(rows[0]))
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def evaluate(
    models: str,
    data: str = "data/easy",
    starts_file: str | None = None,
    clips: int = 256,
    starts: int = 256,
    prompt: int = 8,
    horizon: int = 32,
    long: int = 200,
    steps: int | None = None,
    temperature: float | None = None,
    sampler: SamplerName | None = None,
    guidance: float | None = None,
    device: str = "auto",
    lpips: str | None = None,
    seed: int = 0,
    out: str | None = None,
) -> Comparison:
    """Measures several worlds on the same held-out episodes and moments, beside a still picture.

    Args:
        models: safetensors files of worlds' models, with commas between; what else a world needs
            (its tokenizer) lies beside it.
        data: a split folder, whose test set is dreamed.
        starts_file: moments of the real game, for steering, as `workshop evaluate control
            --starts-file` writes them.
        clips: how many episodes.
        starts: how many of the moments.
        prompt: frames of each episode that the worlds are shown.
        horizon: frames that they then dream.
        long: frames of a few long dreams; 0 for none.
        steps: how often each frame is refined, in worlds that have steps.
        temperature: how freely worlds of tokens draw; 0 takes what is likeliest.
        sampler: of the noise, in worlds of diffusion; by default the world's own.
        guidance: there, how much more the action counts; 1 is no more, at half the price.
        device: where they dream: cpu, cuda, or auto for the GPU if there is one.
        lpips: the safetensors file of its weights (docs/lpips.md), to measure LPIPS, too.
        seed: of the choice of clips and of who gets whose actions.
        out: folder for worlds.md, worlds.csv, worlds.json, worlds.png and worlds-sheet.png.
    """
    files = [name.strip() for name in models.split(",") if name.strip()]
    if not files:
        raise WorkshopError("models: name at least one world's file")
    given = {"steps": steps, "temperature": temperature, "sampler": sampler, "guidance": guidance}
    options = share_options(files, given)
    perceived = None if lpips is None else Lpips(lpips, choose_device(device))
    clip = heldout_episodes(data, "test", clips, prompt + horizon, seed)
    finder = player_of(clip.frames, seed) if long else None
    moments = None if starts_file is None else load_starts(starts_file)[:starts]
    compared, dreams = [], {}
    for name, how in zip([*files, COPY], [*options, {}], strict=True):
        world: World = CopyWorld() if name == COPY else open_world(name, device=device, **how)
        label = name if name == COPY else _label(Path(name))
        one, dreams[label] = compare_one(
            label, world, clip, moments, prompt, long, seed, perceived, finder
        )
        compared.append(one)
    comparison = Comparison(tuple(compared))
    print(comparison.table())
    if out is not None:
        write_report(Path(out), comparison, clip.frames[:, prompt:], dreams)
        print(f"wrote {out}")
    return comparison


def _label(file: Path) -> str:
    """The file's name; of a run folder's model, which are all called the same, the run's."""
    return file.stem if file.stem != "model" else file.parent.parent.name


def compare_one(
    name: str,
    world: World,
    clip: Clip,
    moments: Starts | None = None,
    prompt: int = 8,
    long: int = 200,
    seed: int = 0,
    lpips: Lpips | None = None,
    finder: PlayerFinder | None = None,
) -> tuple[Compared, Tensor]:
    """One world's figures, and its dreams of the clips, uint8 (B, T - prompt, H, W, C).

    finder: of the player in long dreams (`player.player_of`); without one only the level counts.
    """
    rollout, dreamed = measure(world, clip, prompt, seed, lpips)
    control = None if moments is None else measure_control(world, moments)[0]
    few, drift = clip[:DREAMS], {}
    if long:
        for what, pressed in long_play(len(few), long, seed).items():
            past = few.frames[:, :prompt], few.actions[:, : prompt - 1]
            drift[what], _ = measure_drift(world, *past, pressed, finder)
    return Compared(name, rollout, control, drift, *_speed(world, clip[:1], prompt)), dreamed


@torch.inference_mode()
def _speed(world: World, clip: Clip, prompt: int) -> tuple[float, float]:
    """Median milliseconds of a step of one dream: by the clock, and of all cores together."""
    state = world.begin(clip.frames[:, :prompt], clip.actions[:, : prompt - 1])
    taken = []
    for _ in range(PLAYED):
        clock, cpu = time.perf_counter(), time.process_time()
        frame, state = world.step(state, clip.actions[:, prompt - 1])
        frame.cpu()
        taken.append((time.perf_counter() - clock, time.process_time() - cpu))
    median = 1e3 * torch.tensor(taken).median(dim=0).values
    return float(median[0]), float(median[1])


def write_report(
    folder: Path, comparison: Comparison, real: Tensor, dreams: dict[str, Tensor]
) -> None:
    """The table as Markdown, CSV and JSON, the figure, and a sheet of dreams of one clip."""
    from workshop_lib.media.comparison_plots import comparison_figure, worlds_sheet
    from workshop_lib.media.sheet import write_image

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "worlds.md").write_text(comparison.table() + "\n")
    with open(folder / "worlds.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(comparison.rows())
    write_json(folder / "worlds.json", comparison)
    pictured = {world.name: picture(world) for world in comparison.worlds}
    comparison_figure(pictured).savefig(folder / "worlds.png")
    shown = [horizon for horizon in SHEET if horizon <= real.shape[1]]
    sheet = worlds_sheet(real[0], {name: dream[0] for name, dream in dreams.items()}, shown)
    write_image(folder / "worlds-sheet.png", sheet)


def picture(world: Compared) -> Pictured:
    """A world's figures as curves."""
    from workshop_lib.media.comparison_plots import CLOSENESS, SHARPNESS, STEERING, Pictured

    at = world.rollout.at
    horizons = [each.horizon for each in at]
    curves = {
        CLOSENESS: (horizons, [each.psnr.mean for each in at]),
        SHARPNESS: (horizons, [each.sharpness.mean for each in at]),
    }
    if world.control is not None:
        told = world.control.at
        accuracy = [each.accuracy["left/right"].mean for each in told]
        curves[STEERING] = ([each.horizon for each in told], accuracy)
    return Pictured(curves, world.milliseconds)

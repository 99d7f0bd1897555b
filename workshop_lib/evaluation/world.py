"""How good a world is, beside its controls: `workshop evaluate world`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from workshop_lib.data.clip import Clip
from workshop_lib.evaluation.drift import DriftReport, long_play, measure_drift
from workshop_lib.evaluation.heldout import heldout_episodes
from workshop_lib.evaluation.lpips import Lpips
from workshop_lib.evaluation.metrics import Score, write_json
from workshop_lib.evaluation.player import PlayerFinder, player_of
from workshop_lib.evaluation.rollout import (
    SHOWN,
    AtHorizon,
    AtHorizonSeen,
    RolloutReport,
    check_keys,
    measure,
    write_csv,
)
from workshop_lib.models.diffusion_math import SamplerName
from workshop_lib.worlds.opening import choose_device, open_world
from workshop_lib.worlds.world import World

DREAMS = 8  # side by side in a long rollout
FILMED = 4  # clips in the video and on the sheet


@dataclass(frozen=True)
class WorldReport:
    """rollout: against the truth, frame by frame. drift: of long dreams, by what is pressed."""

    model: str
    rollout: RolloutReport
    drift: dict[str, DriftReport]

    def table(self) -> str:
        lines = [f"{name}: {drift.line()}" for name, drift in self.drift.items()]
        return "\n".join([self.rollout.table(), *lines])


def evaluate(
    model: str,
    data: str = "data/easy",
    split: Literal["train", "val", "test"] = "test",
    clips: int = 256,
    prompt: int = 8,
    horizon: int = 32,
    long: int = 500,
    tokenizer: str | None = None,
    lam: str | None = None,
    steps: int | None = None,
    temperature: float | None = None,
    sampler: SamplerName | None = None,
    guidance: float | None = None,
    device: str = "auto",
    lpips: str | None = None,
    seed: int = 0,
    out: str | None = None,
) -> WorldReport:
    """Measures a world's open-loop dreams of held-out episodes, and draws them.

    The controls: copying the last frame of the prompt, and another episode's actions.

    Args:
        model: the safetensors file of a world's model, or the name of a pretrained one.
        data: a split folder.
        split: which of its sets.
        clips: how many episodes, each another one; all there are if there are fewer.
        prompt: frames of each episode that the world is shown.
        horizon: frames that it then dreams.
        long: frames of a few long dreams; 0 for none.
        tokenizer: the safetensors file of the tokenizer, for worlds of tokens; in a world of pixels
            dreamed frames pass through it. "none": not even through the model's own.
        lam: the safetensors file of the latent action model, for worlds driven by its codes.
        steps: how often each frame is refined, for worlds that have steps.
        temperature: how freely a world of tokens draws; 0 takes what is likeliest.
        sampler: of the noise, in worlds of diffusion; by default the world's own.
        guidance: there, how much more the action counts; 1 is no more, at half the price.
        device: where it dreams: cpu, cuda, or auto for the GPU if there is one.
        lpips: the safetensors file of its weights (docs/lpips.md), to measure LPIPS, too.
        seed: of the choice of clips and of who gets whose actions.
        out: folder for report.json, horizons.csv, horizons.png, comparison.png, rollout.mp4 and
            the long dreams.
    """
    options = {"steps": steps, "temperature": temperature, "sampler": sampler, "guidance": guidance}
    perceived = None if lpips is None else Lpips(lpips, choose_device(device))
    world = open_world(model, tokenizer, lam, device, **options)
    check_keys(world)
    clip = heldout_episodes(data, split, clips, prompt + horizon, seed)
    rollout, dreamed = measure(world, clip, prompt, seed, perceived)
    finder = player_of(clip.frames, seed) if long else None
    drift, films = _long_dreams(world, clip[:DREAMS], prompt, long, seed, finder)
    report = WorldReport(Path(model).name, rollout, drift)
    print(report.table())
    if out is not None:
        write_report(Path(out), report, clip, dreamed, films)
        print(f"wrote {out}")
    return report


def _long_dreams(
    world: World, clip: Clip, prompt: int, steps: int, seed: int, finder: PlayerFinder | None
) -> tuple[dict[str, DriftReport], dict[str, Tensor]]:
    """What became of long dreams, and one of each kind as uint8 (steps, H, W, C)."""
    reports: dict[str, DriftReport] = {}
    films: dict[str, Tensor] = {}
    if steps > 0:
        for name, pressed in long_play(len(clip), steps, seed).items():
            past = clip.actions[:, : prompt - 1]
            reports[name], films[name] = measure_drift(
                world, clip.frames[:, :prompt], past, pressed, finder
            )
    return reports, films


def write_report(
    folder: Path, report: WorldReport, clip: Clip, dreamed: Tensor, films: dict[str, Tensor]
) -> None:
    """The tables, plots, sheet and videos. dreamed: uint8 (B, K, H, W, C)."""
    from workshop_lib.media.picture import enlarge
    from workshop_lib.media.rollout_plots import comparison_sheet, rollout_film
    from workshop_lib.media.sheet import write_image
    from workshop_lib.media.video import write_video

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "report.json", report)
    write_csv(folder / "horizons.csv", report.rollout)
    draw_horizons(folder / "horizons.png", report.rollout)
    prompt = report.rollout.prompt
    few, few_dreamed = clip[:FILMED], dreamed[:FILMED]
    shown = [horizon for horizon in SHOWN if horizon <= dreamed.shape[1]]
    sheet = comparison_sheet(few.frames[:, prompt:], few_dreamed, shown)
    write_image(folder / "comparison.png", sheet)
    write_video(folder / "rollout.mp4", rollout_film(few.frames, few_dreamed, few.actions[:, :-1]))
    for name, film in films.items():
        write_video(folder / f"long-{name.replace(' ', '-')}.mp4", enlarge(film.numpy(), 4))


def draw_horizons(path: Path, report: RolloutReport) -> None:
    """PSNR, mean squared error and, if measured, LPIPS against the horizon, with the controls."""
    from workshop_lib.media.rollout_plots import horizon_plot

    def curve(of: Callable[[AtHorizon], Score]) -> tuple[list[float], list[float]]:
        scores = [of(at) for at in report.at]
        return [s.mean for s in scores], [s.interval for s in scores]

    panels = {
        "PSNR, dB": {
            "true actions": curve(lambda at: at.psnr),
            "another clip's actions": curve(lambda at: at.shuffled_psnr),
            "copy of the last frame": curve(lambda at: at.copy_psnr),
        },
        "mean squared error": {
            "true actions": curve(lambda at: at.mse),
            "another clip's actions": curve(lambda at: at.shuffled_mse),
            "copy of the last frame": curve(lambda at: at.copy_mse),
        },
    }
    seen = [at for at in report.at if isinstance(at, AtHorizonSeen)]
    if seen:
        apart = {
            "true actions": [at.lpips for at in seen],
            "another clip's actions": [at.shuffled_lpips for at in seen],
            "copy of the last frame": [at.copy_lpips for at in seen],
        }
        panels["LPIPS"] = {
            name: ([s.mean for s in scores], [s.interval for s in scores])
            for name, scores in apart.items()
        }
    horizons = [at.horizon for at in report.at]
    horizon_plot(panels, horizons, logarithmic=["mean squared error"]).savefig(path)

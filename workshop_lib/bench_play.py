"""How fast a world of tokens or of diffusion plays here: `workshop bench play`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workshop_lib.errors import WorkshopError
from workshop_lib.models.diffusion_math import SamplerName
from workshop_lib.models.dynamics import Dynamics
from workshop_lib.models.files import load_model
from workshop_lib.models.maskgit import unmask
from workshop_lib.models.tokenizer import Tokenizer
from workshop_lib.pretrained import find_file
from workshop_lib.worlds.opening import fitting_options, options_of
from workshop_lib.worlds.token_world import TokenState, TokenWorld

WARM_UP = 3  # steps that are not counted


@dataclass(frozen=True)
class Speed:
    """Milliseconds per frame, the median: seconds: by the clock; cpu: of all cores together."""

    seconds: float
    cpu: float


def bench_play(
    dynamics: str = "dynamics/base",
    tokenizer: str = "tokenizer/base",
    steps: int = 4,
    frames: int = 40,
    temperature: float | None = None,
    sampler: SamplerName | None = None,
    guidance: float | None = None,
    out: str | None = None,
) -> None:
    """Measures how many frames a second a world plays, with and without its cache.

    A frame is a whole step: unmask its tokens, decode them to pixels. The prompt fills the window
    and is encoded once. Without the cache, the whole window runs through the dynamics at each
    step of unmasking. Both are measured in turn, in one run.

    Args:
        dynamics: a recipe, whose model plays untrained (as fast as trained), a safetensors
            file, or the name of a pretrained model; or, for a world without tokens, those of
            a diffusion model.
        tokenizer: a recipe or file, likewise.
        steps: of unmasking, or of denoising.
        frames: how many are measured.
        temperature: how freely a world of tokens draws; 0 takes what is likeliest.
        sampler: of the noise, in worlds of diffusion; by default the world's own.
        guidance: there, how much more the action counts; 1 is no more, at half the price.
        out: write the figures to this JSON file too.
    """
    model = _model(dynamics)
    given = {"steps": steps, "temperature": temperature, "sampler": sampler, "guidance": guidance}
    if hasattr(model, "denoise"):
        from workshop_lib.bench_diffusion import play_diffusion

        options = fitting_options(dynamics, "diffusion", given)
        return play_diffusion(model, dynamics, options, frames, out)
    parts = _of_kind(tokenizer, _model(tokenizer), Tokenizer), _of_kind(dynamics, model, Dynamics)
    world = TokenWorld(*parts, **fitting_options(dynamics, "dynamics", given))
    size, window = world.tokenizer.config.size, world.dynamics.config.window
    prompt = torch.randint(256, (1, window, size, size, 3), dtype=torch.uint8)
    state = world.begin(prompt, torch.zeros(1, window - 1, dtype=torch.int64))
    action = torch.zeros(1, dtype=torch.int64)

    def cached() -> None:
        nonlocal state
        _, state = world.step(state, action)

    runs: dict[str, Callable[[], object]] = {
        "with the cache": cached,
        "without": lambda: uncached_step(world, state, action),
        "decoding alone": lambda: world.tokenizer.decode(state.tokens[:, -world.shown :]),
    }
    figures = in_turn(runs, frames)
    start = time.perf_counter()
    world.begin(prompt, torch.zeros(1, window - 1, dtype=torch.int64))
    encoding = 1e3 * (time.perf_counter() - start)
    _report(figures, f"{dynamics}, {window} frames, {steps} steps of unmasking", encoding)
    if out is not None:
        values = {name: vars(speed) for name, speed in figures.items()}
        values["options"] = options_of(world)
        Path(out).write_text(json.dumps(values, indent=2) + "\n")


def _model(name: str) -> Any:
    from workshop_lib.training.live import from_recipe

    path = find_file(name)
    model: nn.Module = load_model(path) if path.is_file() else from_recipe(name)[0]
    return model


def _of_kind(name: str, model: Any, kind: type[Any]) -> Any:
    if not isinstance(model, kind):
        raise WorkshopError(f"{name}: is a {type(model).__name__}, not a {kind.__name__}")
    return model


@torch.inference_mode()
def uncached_step(world: TokenWorld, state: TokenState, action: Tensor) -> Tensor:
    """A step of the world that computes the last W frames anew each time: uint8 (B, H, W, C).

    Its dynamics forgets what is behind the window. Until then, and with one block, the frame is
    the world's own.
    """
    dynamics, (batch, past, h, w) = world.dynamics, state.tokens.shape
    past = min(past, dynamics.config.window - 1)
    before = state.tokens[:, state.tokens.shape[1] - past :]
    led_by = torch.cat([state.led_by, action[:, None]], dim=1)[:, -past - 1 :]

    def predict(tokens: Tensor) -> Tensor:
        whole = torch.cat([before, tokens.view(batch, 1, h, w)], dim=1)
        return dynamics.ungroup(dynamics(whole, led_by)[:, -1:]).flatten(1, 3)

    start = torch.full((batch, h * w), dynamics.mask_id)
    schedule, noise = dynamics.config.schedule, world.noise(state)
    how = world.steps, world.temperature, schedule, noise, dynamics.reader(state.shown)
    *_, tokens = unmask(predict, start, *how)
    shown = torch.cat([state.tokens, tokens.view(batch, 1, h, w)], dim=1)[:, -world.shown :]
    return world.tokenizer.decode(shown)[:, -1]


def in_turn(
    runs: dict[str, Callable[[], object]], times: int, warm_up: int = WARM_UP
) -> dict[str, Speed]:
    """Each run many times, turn and turn about, so that a busy moment strikes all alike."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for number in range(warm_up + times):
        for name, run in runs.items():
            clock, cpu = time.perf_counter(), time.process_time()
            run()
            if number >= warm_up:
                taken[name].append((time.perf_counter() - clock, time.process_time() - cpu))
    medians = {name: torch.tensor(pairs).median(dim=0).values for name, pairs in taken.items()}
    return {name: Speed(*(1e3 * pair).tolist()) for name, pair in medians.items()}


def _report(figures: dict[str, Speed], title: str, encoding: float) -> None:
    cached = figures["with the cache"]
    print(f"{title}; {torch.get_num_threads()} threads")
    print(f"  {'':<16}{'frames/s':>10}{'ms':>9}{'CPU ms':>9}{'times':>8}")
    for name, speed in figures.items():
        print(
            f"  {name:<16}{1e3 / speed.seconds:>10.1f}{speed.seconds:>9.1f}{speed.cpu:>9.1f}"
            f"{speed.cpu / cached.cpu:>8.2f}"
        )
    print(f"  the prompt, encoded once: {encoding:.0f} ms")

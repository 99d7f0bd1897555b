"""How fast a diffusion world plays and trains here: `workshop bench play` and `bench train`."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workshop_lib.bench_frame_by_frame import frame_by_frame
from workshop_lib.bench_play import Speed, in_turn
from workshop_lib.data.clip import Clip, frames_to_video, video_to_frames
from workshop_lib.errors import WorkshopError
from workshop_lib.models.diffusion import Diffusion
from workshop_lib.models.diffusion_math import SAMPLERS
from workshop_lib.models.expected import Past
from workshop_lib.nn.linear import Linear
from workshop_lib.training.live import from_recipe
from workshop_lib.training.optim import make_optimizer
from workshop_lib.worlds.diffusion_world import DiffusionState, DiffusionWorld
from workshop_lib.worlds.opening import options_of


def play_diffusion(
    model: Any, name: str, options: dict[str, Any], frames: int, out: str | None
) -> None:
    """Measures a whole step of a diffusion world, with a full window behind it, and prints it: with
    its cache, and with the whole window through the network at every step of denoising.

    model: any denoiser; only those with a cache are measured without it, too (unguided).
    options: of the world: its steps, sampler and guidance.
    """
    world = DiffusionWorld(model, **options)
    window, size = world.model.context, world.model.size
    prompt = torch.randint(256, (1, window, size, size, 3), dtype=torch.uint8)
    state = world.begin(prompt, torch.zeros(1, window - 1, dtype=torch.int64))
    action = torch.zeros(1, dtype=torch.int64)

    def cached() -> None:
        nonlocal state
        _, state = world.step(state, action)

    runs: dict[str, Callable[[], object]] = {"with the cache": cached}
    if isinstance(world.model, Diffusion) and world.guidance == 1:
        runs["without"] = lambda: uncached_step(world, state, action)
    title = f"{name}, {window} frames, {world.steps} steps of {world.sampler}"
    if world.guidance != 1:
        title += f", guidance {world.guidance:g}"
    _report(title, in_turn(runs, frames), 1, out, options_of(world))


@torch.inference_mode()
def uncached_step(world: DiffusionWorld, state: DiffusionState, action: Tensor) -> Tensor:
    """A step of the world that looks at the last W frames anew each time: uint8 (B, H, W, C).

    What is behind the window is forgotten. Until then the frame is the world's own.
    """
    model, past = world.model, min(state.frames.shape[1], world.model.context - 1)
    video = frames_to_video(state.frames[:, -past:])
    led_by = torch.cat([state.led_by[:, -past:], action[:, None]], dim=1)
    settled, guess = torch.full((len(action), past), model.stabilization), None
    if model.mean is not None:
        seen = Past.of(model.mean, state.frames, state.led_by)
        guess = torch.cat([video, seen.mean_after(action, model.mean)[:, None]], dim=1)

    def denoise(x: Tensor, level: Tensor) -> Tensor:
        if guess is not None and level >= model.schedule.top:
            return guess[:, -1].clamp(-1, 1)
        whole = torch.cat([video, x[:, None]], dim=1)
        levels = torch.cat([settled, level.expand(len(x), 1)], dim=1)
        return model(whole, levels, led_by, model.before(whole), guess)[:, -1].clamp(-1, 1)

    levels = model.schedule.steps(world.steps)
    noise = torch.randn(len(action), *video.shape[2:], generator=world.noise(state))
    x = model.schedule.alpha_sigma(levels[:1])[1] * noise
    return video_to_frames(SAMPLERS[world.sampler](denoise, x, model.schedule, levels))


def bench_train(
    model: str = "diffusion/oasis-58m",
    batch_size: int = 1,
    length: int = 32,
    steps: int = 3,
    out: str | None = None,
) -> None:
    """Measures training steps (loss, gradients, AdamW) of a diffusion model on clips of noise.

    Beside ours, turn and turn about: the same network with PyTorch's plain linear layers, over
    whole clips and in a plain loop over their frames (bench_frame_by_frame.py). All in float32.

    Args:
        model: a recipe of family diffusion.
        batch_size: clips in a step.
        length: frames in a clip.
        steps: how many are measured.
        out: write the figures to this JSON file too.
    """
    ours, optim = from_recipe(model)
    if not isinstance(ours, Diffusion):
        raise WorkshopError(f"{model}: is a {type(ours).__name__}, not a Diffusion")
    size = ours.size
    clip = Clip(
        torch.randint(256, (batch_size, length, size, size, 3), dtype=torch.uint8),
        torch.randint(ours.num_actions, (batch_size, length)),
        torch.zeros(batch_size, length, dtype=torch.bool),
    )
    usual = plain(ours)
    looped = frame_by_frame(usual)
    optimizers = {id(net): make_optimizer(net, optim) for net in (ours, usual, looped)}

    def step(net: Any) -> None:
        net.loss(clip)[0].backward()
        optimizers[id(net)].step()
        optimizers[id(net)].zero_grad()

    runs: dict[str, Callable[[], object]] = {
        "ours": lambda: step(ours),
        "plain layers": lambda: step(usual),
        "frame by frame": lambda: step(looped),
    }
    title = f"{model}, {batch_size} x {length} frames a step"
    _report(title, in_turn(runs, steps, warm_up=1), batch_size * length, out)


def plain(model: nn.Module) -> Any:
    """A copy whose linear layers are PyTorch's own (nn/linear.py has another way on CPUs)."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, Linear):
            module.__class__ = nn.Linear  # type: ignore[assignment]
    return model


def _report(
    title: str,
    figures: dict[str, Speed],
    frames: int,
    out: str | None,
    options: dict[str, Any] | None = None,
) -> None:
    first = next(iter(figures.values()))
    print(f"{title}; {torch.get_num_threads()} threads")
    print(f"  {'':<16}{'frames/s':>10}{'ms':>9}{'CPU ms':>9}{'times':>8}")
    for name, speed in figures.items():
        print(
            f"  {name:<16}{1e3 * frames / speed.seconds:>10.1f}{speed.seconds:>9.1f}"
            f"{speed.cpu:>9.1f}{speed.cpu / first.cpu:>8.2f}"
        )
    if out is not None:
        values = {name: vars(speed) for name, speed in figures.items()}
        if options is not None:
            values["options"] = options
        Path(out).write_text(json.dumps(values, indent=2) + "\n")

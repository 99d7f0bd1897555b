"""What every denoiser of frames offers, and how the next frame comes from it."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from workshop_lib.data.clip import video_to_frames
from workshop_lib.errors import WorkshopError
from workshop_lib.models.diffusion_math import SAMPLERS, check_sampler, guide
from workshop_lib.models.noise_schedules import Schedule

UNKNOWN = -1  # what led to a clip's first frame, or an action that is left out


class Denoiser(Protocol):
    """A trained model that takes noise from the next frame.

    num_actions: A; actions are 0 to A - 1. size: height and width of its frames. context: frames
    in its window. kept: frames of the past that the next one depends on, through all layers, and so
    the most that a world has to keep.
    """

    schedule: Schedule
    num_actions: int
    size: int
    context: int
    kept: int

    def recall(self, frames: Tensor, led_by: Tensor, memory: Any = None) -> Any:
        """What `denoise` needs of the past: uint8 frames (B, T, H, W, C) and what led to each,
        int64 (B, T), -1 for unknown. With a memory, they are newer than what it holds; it may be
        changed."""
        ...

    def denoise(self, x: Tensor, level: Tensor, led_by: Tensor, memory: Any) -> Tensor:
        """The clean frame (B, C, H, W) that x means at one noise level, after action `led_by`
        (B,), -1 for none. The memory stays as it is."""
        ...


@torch.no_grad()
def next_frame(
    model: Denoiser,
    memory: Any,
    led_by: Tensor,
    steps: int,
    sampler: str,
    guidance: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Samples the frame after what the memory holds, float (B, C, H, W) in [-1, 1].

    steps: of the sampler, 1 or more. guidance: 1 is none; more makes the action count for more, at
    twice the price. generator: of the noise, on the CPU.

    Raises WorkshopError for an unknown sampler and one that does not fit the schedule.
    """
    check_play(steps, sampler, model.schedule)

    def denoise(x: Tensor, level: Tensor) -> Tensor:
        x0 = model.denoise(x, level, led_by, memory)
        if guidance != 1:
            without = model.denoise(x, level, torch.full_like(led_by, UNKNOWN), memory)
            x0 = guide(x0, without, guidance)
        return x0.clamp(-1, 1)

    levels = model.schedule.steps(steps).to(led_by.device)
    shape = (len(led_by), 3, model.size, model.size)
    noise = torch.randn(shape, generator=generator).to(led_by.device)
    x = model.schedule.alpha_sigma(levels[:1])[1] * noise
    return SAMPLERS[sampler](denoise, x, model.schedule, levels)


@torch.no_grad()
def rollout(model: Any, frames: Tensor, actions: Tensor, seed: int = 0) -> Tensor:
    """An open-loop rollout, as the model's config says: n frames, each sampled after those before.

    model: a Denoiser with steps, sampler and guidance in its config.
    frames: uint8 (B, T, H, W, C), T >= 1. actions: int64 (B, T - 1 + n), n >= 1.
    Returns uint8 (B, n, H, W, C).
    """
    config, start = model.config, frames.shape[1]
    led_by = F.pad(actions, (1, 0), value=UNKNOWN)
    memory, generator = model.recall(frames, led_by[:, :start]), torch.Generator()
    generator.manual_seed(seed)
    how = config.steps, config.sampler, config.guidance, generator
    dreamed: list[Tensor] = []
    for led in led_by[:, start:].unbind(1):
        frame = video_to_frames(next_frame(model, memory, led, *how))
        memory = model.recall(frame[:, None], led[:, None], memory)
        dreamed.append(frame)
    return torch.stack(dreamed, dim=1)


def check_play(steps: int, sampler: str, schedule: Schedule) -> None:
    """Raises WorkshopError for steps below 1, and for a sampler that there is not or that does not
    fit the schedule."""
    if steps < 1:
        raise WorkshopError(f"steps must be 1 or more, got {steps}")
    if sampler not in SAMPLERS:
        raise WorkshopError(f"sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")
    check_sampler(sampler, schedule)

"""A made-up game with a future that nobody can foresee, and how to learn and play it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from workshop_lib.data.clip import Clip, frames_to_video, video_to_frames

LEFT, STAY, RIGHT = 0, 1, 2


def columns_clip(count: int, length: int, size: int = 32) -> Clip:
    """The camera moves 4 pixels left or right over a level whose ground, from one column of 8
    pixels to the next, is high or low: black or white."""
    actions = torch.randint(0, 3, (count, length))
    level = torch.where(torch.rand(count, 1, 1, 32) < 0.5, -0.8, 0.8)
    level = level.expand(-1, 3, size, -1).repeat_interleave(8, dim=-1)
    camera = 4 * (actions - 1).cumsum(dim=1)
    camera = 112 + F.pad(camera[:, :-1], (1, 0))
    columns = camera[:, :, None] + torch.arange(size)  # B T W
    frames = torch.stack([level[b][..., columns[b]].movedim(2, 0) for b in range(count)])
    return Clip(video_to_frames(frames), actions, torch.zeros(count, length, dtype=torch.bool))


def train(model: Any, clips: Any, steps: int, lr: float = 3e-3) -> Any:
    """`clips()` is the next batch."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=lr / 30)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(clips())[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def held(world: Any, frames: Tensor, actions: Tensor, key: int, count: int) -> Tensor:
    """What comes of holding a key: uint8 (B, count, H, W, C)."""
    state, shown = world.begin(frames, actions), []
    for _ in range(count):
        frame, state = world.step(state, torch.full((len(frames),), key))
        shown.append(frame)
    return torch.stack(shown, dim=1)


def steering(world: Any) -> list[float]:
    """Held-out levels: after two steps of left, right and nothing, the share of dreams that are
    nearer to the real future of their own key than to that of another."""
    clips = columns_clip(32, 6)
    start, actions = clips.frames[:, :2], clips.actions[:, :1]
    now = frames_to_video(start[:, -1])
    real = {key: now[..., 8 + 8 * (key - 1) : 24 + 8 * (key - 1)] for key in (LEFT, STAY, RIGHT)}
    shares = []
    for key, other in ((LEFT, RIGHT), (RIGHT, LEFT), (STAY, LEFT)):
        dream = frames_to_video(held(world, start, actions, key, 2)[:, -1])[..., 8:-8]
        own, others = ((dream - real[k]).square().mean(dim=(1, 2, 3)) for k in (key, other))
        differ = (real[key] != real[other]).flatten(1).any(dim=1)
        shares.append((own < others)[differ].float().mean().item())
    return shares

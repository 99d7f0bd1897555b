"""Latent actions: what a code may see, and that it moves the picture."""

from __future__ import annotations

import torch

from tests.models.scrolling import scrolling_clip
from workshop_lib.training.live import from_recipe, train_live


def test_a_code_sees_the_next_frame_and_nothing_later() -> None:
    torch.manual_seed(0)
    model, _ = from_recipe("lam/tiny")
    model.eval()
    frames = torch.randint(0, 256, (2, 20, 64, 64, 3), dtype=torch.uint8)
    codes = model.infer(frames)
    assert torch.equal(codes, model.infer(frames))
    changed = frames.clone()
    changed[:, 12:] = 255 - changed[:, 12:]
    again = model.infer(changed)
    assert torch.equal(codes[:, :11], again[:, :11])  # code 11 led to frame 12
    assert not torch.equal(codes[:, 11:], again[:, 11:])


def test_it_learns_a_scrolling_world() -> None:
    torch.manual_seed(0)
    model, optim = from_recipe("lam/tiny", stride=1, history=2, scale=1, size=32)
    generator = torch.Generator().manual_seed(0)
    clips = [scrolling_clip(16, 12, generator) for _ in range(4)]
    before = model.eval().loss(clips[0])[0].item()
    model.train()
    train_live(model, clips, 40, optim=optim, show=False)
    assert model.loss(clips[0])[0].item() < before - 0.05

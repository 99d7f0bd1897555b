"""Latent actions: what a code may see, and what keeps codes alive."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.models.scrolling import scrolling_clip
from workshop_lib.data.clip import Clip
from workshop_lib.errors import WorkshopError
from workshop_lib.models.latent_action import LatentActionModel, entropy_of_mean
from workshop_lib.models.latent_portrait import Portrait
from workshop_lib.nn.codebook import VQConfig
from workshop_lib.training.live import from_recipe, train_live
from workshop_lib.training.optim import OptimConfig

OPTIM = OptimConfig(lr=3e-3, warmup=20, ema=0.9)


def scrolling_lam(**changes: Any) -> LatentActionModel:
    torch.manual_seed(0)
    small = {"stride": 1, "history": 1, "scale": 1, "size": 32, "portrait": 0, "loss": "mse"}
    encoder = {"kind": "conv", "view": 0, "width": 16, "depth": 1}
    decoder = {"kind": "unet", "patch": 4, "width": 16, "depth": 1, "middle": 2}
    parts = {"encoder": encoder, "decoder": decoder, "soft_steps": 60, "transitions": 0}
    model, _ = from_recipe("lam/tiny", **(small | parts | changes))
    assert isinstance(model, LatentActionModel)
    return model


def clips(count: int, seed: int = 0) -> list[Clip]:
    generator = torch.Generator().manual_seed(seed)
    return [scrolling_clip(16, 8, generator) for _ in range(count)]


def test_a_code_sees_the_next_frame_and_nothing_later() -> None:
    torch.manual_seed(0)
    model, _ = from_recipe("lam/tiny", quantizer={"kind": "fsq", "levels": [2, 2, 2]})
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
    model = scrolling_lam(transitions=2)
    data = clips(4)
    before = model.eval().loss(data[0])[0].item()
    train_live(model, data, 40, optim=OPTIM, show=False)
    assert model.loss(data[0])[0].item() < 0.8 * before


def test_idle_codes_start_anew_and_the_entropy_counts_them() -> None:
    model = scrolling_lam(
        quantizer={"kind": "vq", "num_codes": 6, "code_dim": 3, "reset_after": 3}, soft_steps=0
    )
    assert isinstance(model.config.quantizer, VQConfig)
    model.code.quantizer.codebook.table.fill_(50.0)  # all codes far off: collapsed onto one
    train_live(model, clips(2), 12, optim=OPTIM, show=False)
    used = model.eval().infer(clips(1, seed=5)[0].frames).unique()
    assert len(used) >= 3
    even, one = torch.full((10, 6), 1 / 6).log(), torch.full((10, 6), -30.0)
    one[:, 2] = 0
    assert entropy_of_mean(even) == pytest.approx(torch.tensor(6.0).log().item(), abs=1e-4)
    assert entropy_of_mean(one) < 1e-3


def test_a_portrait_takes_the_side_from_the_code_alone() -> None:
    torch.manual_seed(0)
    portrait = Portrait(6, 64, 2)
    video, last = torch.rand(3, 3, 64, 64), torch.rand(3, 3, 64, 64)
    vectors = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    drawn = portrait(video, last, vectors)
    other = video.clone()
    other[..., 29:35, 29:35] = 0
    assert torch.equal(drawn, portrait(other, last, vectors))  # not from the frame itself
    assert torch.allclose(drawn, portrait(video, last.flip(-1), vectors), atol=1e-6)
    assert not torch.allclose(drawn, portrait(video, last, -vectors), atol=1e-2)
    with pytest.raises(WorkshopError, match=r"model\.portrait: 7"):
        Portrait(7, 64, 2)

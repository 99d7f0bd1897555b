"""Latent actions: what a code may see, and what keeps codes alive."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.conftest import SAMPLE
from tests.models.scrolling import MOVES, scrolling_clip
from workshop_lib.data.clip import Clip
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.agreement import mutual_information
from workshop_lib.evaluation.heldout import heldout_episodes
from workshop_lib.evaluation.inverse_dynamics import merged
from workshop_lib.evaluation.metrics import psnr
from workshop_lib.evaluation.shift import scroll
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


@pytest.fixture(scope="module")
def found() -> LatentActionModel:
    """Has found out by itself by what keys the landscape scrolls."""
    torch.manual_seed(0)
    model, _ = from_recipe("lam/tiny", **FOUND)
    assert isinstance(model, LatentActionModel)
    train_live(model, clips(8), 200, optim=OptimConfig(lr=3e-3, warmup=10, ema=0.9), show=False)
    return model


FOUND: dict[str, Any] = {
    "stride": 1,
    "history": 1,
    "scale": 1,
    "size": 32,
    "portrait": 0,
    "loss": "mse",
    "drop": 0.0,
    "soft_steps": 60,
    "transitions": 2,
    "quantizer": {"kind": "fsq", "levels": [2, 2]},
    "decoder": {"kind": "unet", "patch": 2, "width": 32},
}


def test_codes_become_the_keys_of_a_scrolling_world(found: LatentActionModel) -> None:
    """On landscapes that it has not seen."""
    clip = clips(4, seed=99)[3]
    codes, actions = found.infer(clip.frames), clip.actions[:, :-1]
    assert mutual_information(codes.flatten(), merged(actions).flatten()) > 0.85


def test_a_code_moves_the_picture_as_its_key_does(found: LatentActionModel) -> None:
    clip = clips(1, seed=98)[0]
    codes, actions = found.infer(clip.frames), clip.actions[:, :-1]
    for key, (down, right) in MOVES.items():
        code = codes[actions == key].mode().values
        dreamed = found.predict(clip.frames[:, :3], code.expand(16, 3))
        moved = scroll(clip.frames[:, 2], dreamed[:, -1], most=12).double().mean(dim=0)
        assert moved.tolist() == pytest.approx([-3 * right, -3 * down], abs=2)


def test_a_few_labels_give_the_codes_their_names() -> None:
    torch.manual_seed(0)
    model, _ = from_recipe("lam/tiny", **(FOUND | LABELED))
    assert isinstance(model, LatentActionModel)
    train_live(model, clips(8), 120, optim=OptimConfig(lr=3e-3, warmup=10, ema=0.9), show=False)
    clip = clips(4, seed=99)[3]
    wanted = torch.tensor(model.config.action_codes)[clip.actions[:, :-1]]
    assert (model.infer(clip.frames) == wanted).float().mean() > 0.7


# Left, right and jump are codes that need both digits: each of these has to vary.
LABELED: dict[str, Any] = {
    "labels": 0.2,
    "action_codes": (0, 0, 3, 3, 3, 2, 1, 1, 3, 3, 3, 3, 3, 3, 3),
    "soft_steps": 30,
}


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


def test_it_knows_a_few_clips_by_heart() -> None:
    """Real frames: trained on three clips, it draws them again from their codes, and from others'
    codes it does not."""
    easy = heldout_episodes(SAMPLE / "easy", "train", 3, 8)
    whole = {"kind": "conv", "view": 0, "width": 32, "depth": 1}
    decoder = {"kind": "unet", "patch": 4, "width": 32, "depth": 1, "middle": 2}
    model = scrolling_lam(size=64, history=2, soft_steps=0, encoder=whole, decoder=decoder)
    model.train()
    before = model.loss(easy)[0].item()
    curves = train_live(model, [easy], 160, optim=OPTIM, show=False)
    assert curves["train/loss"][1][-10:].mean() < 0.1 * before
    again = model.preview(easy)["again"][:, 1:]
    codes, others = model.infer(easy.frames), model.infer(easy.frames).roll(1, 0)
    assert psnr(again, easy.frames[:, 1:]).mean() > 28
    dreamed = model.predict(easy.frames[:, :2], codes[:, 1:])
    misled = model.predict(easy.frames[:, :2], others[:, 1:])
    real = easy.frames[:, 2:]
    assert psnr(dreamed, real).mean() > max(26, psnr(misled, real).mean() + 1)


def test_a_portrait_takes_the_side_from_the_code_alone() -> None:
    torch.manual_seed(0)
    portrait = Portrait(6, 64, 2)
    torch.nn.init.normal_(portrait.surroundings[2].weight, std=0.1)
    video, vectors = torch.rand(3, 3, 64, 64), torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    drawn = portrait(video, vectors)
    turned = video.clone()
    turned[..., 29:35, 29:35] = turned[..., 29:35, 29:35].flip(-1)
    assert torch.allclose(drawn, portrait(turned, vectors), atol=1e-6)
    assert not torch.allclose(drawn, portrait(video, -vectors), atol=1e-2)
    with pytest.raises(WorkshopError, match=r"model\.portrait: 7"):
        Portrait(7, 64, 2)


@pytest.mark.parametrize(("reach", "least", "most"), [(1, 0, 0.1), (4, 0.9, 1.1)])
def test_portraits_of_later_frames_give_all_poses_one_side(
    reach: int, least: float, most: float
) -> None:
    """Where one pose looks a little like the mirror image of another, only time shows which of
    them face the same way."""
    model = scrolling_lam(portrait=6, portrait_reach=reach, drop=1.0, soft_steps=40,
                          quantizer={"kind": "fsq", "levels": [2]})  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    lessons = [turning_clip(16, 8, generator)[0] for _ in range(12)]
    train_live(model, lessons, 150, optim=OPTIM, show=False)
    clip, left = turning_clip(64, 8, generator)
    told = mutual_information(model.infer(clip.frames).flatten(), left[:, 1:].flatten().long())
    assert least <= told < most


def turning_clip(count: int, length: int, generator: torch.Generator) -> tuple[Clip, torch.Tensor]:
    """Clips of somebody in the middle who turns around now and then, and walks or jumps; and
    whether he faces left, bool (B, T)."""

    def now_and_then(share: float) -> torch.Tensor:
        return (torch.rand(count, length, generator=generator) < share).cumsum(1) % 2 == 1

    start = torch.rand(2, count, 1, generator=generator) < 0.5
    left, jumps = now_and_then(0.1) ^ start[0], now_and_then(0.3) ^ start[1]
    walking, jumping = torch.full((2, 6, 6, 3), 128)
    walking[4:, 4:] = 255  # a leg
    jumping[1:3, 4:] = 255  # an arm
    jumping[5, :1] = 255  # the leg behind
    sprites = torch.stack([torch.stack([s, s.flip(1)]) for s in (walking, jumping)]).byte()
    frames = torch.full((count, length, 32, 32, 3), 60, dtype=torch.uint8)
    frames[:, :, 13:19, 13:19] = sprites[jumps.long(), left.long()]
    none = torch.zeros(count, length, dtype=torch.int64)
    return Clip(frames, none, torch.zeros(count, length, dtype=torch.bool)), left

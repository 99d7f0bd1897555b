"""The measures on cases whose answer is known."""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from workshop_lib.evaluation.metrics import (
    BEST_PSNR,
    contrast,
    psnr,
    psnr_per_clip,
    ratio,
    score,
    share,
    sharpness,
    squared_error,
    ssim,
    ssim_per_clip,
    write_json,
)


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(0)
    smooth = F.interpolate(torch.rand(6, 3, 8, 8, generator=generator), size=(64, 64))
    return (255 * smooth).byte().movedim(1, -1)


def test_known_errors_give_known_scores():
    video = torch.zeros(2, 3, 3, 8, 8)
    noisy = video.clone()
    noisy[1] += 0.2  # an error of .2 on a range of 2: 20 dB
    assert psnr_per_clip(noisy, video) == pytest.approx([106.0, 20.0], abs=0.1)  # 106 is the cap
    picture = torch.rand(1, 2, 3, 64, 64) * 2 - 1
    assert ssim_per_clip(picture, picture)[0] == pytest.approx(1.0, abs=1e-4)
    assert ssim_per_clip(-picture, picture)[0] < 0


def test_pictures_are_measured_one_by_one(pictures):
    off = pictures.clone()
    off[1] += (off[1] < 200).byte() * 2  # most pixels by two levels
    off[2] = 255 - off[2]
    assert psnr(off, pictures)[0] == BEST_PSNR  # equal pictures do not count without limit
    assert 40 < psnr(off, pictures)[1] < 44
    assert psnr(pictures[:1], pictures[:1] ^ 1) == pytest.approx(20 * math.log10(255), abs=0.01)
    assert squared_error(off[0], pictures[0]) == 0
    alike = ssim(off, pictures)
    assert alike[0] == pytest.approx(1, abs=1e-4) and alike[2] < 0.3 < 0.99 < alike[1]
    # the same numbers as the tokenizer's measures, which take float videos
    video, target = (x.movedim(-1, 1)[None].float() / 127.5 - 1 for x in (off, pictures))
    assert ssim_per_clip(video, target)[0] == pytest.approx(float(alike.mean()), abs=1e-4)


def test_sharpness_falls_by_blur_and_rises_by_noise(pictures):
    blurred = F.avg_pool2d(pictures.movedim(-1, 1).float(), 3, 1, 1).byte().movedim(1, -1)
    noisy = (pictures.float() + 40 * torch.randn(pictures.shape)).clamp(0, 255).byte()
    assert (sharpness(blurred) < 0.8 * sharpness(pictures)).all()
    assert (sharpness(noisy) > 1.5 * sharpness(pictures)).all()
    flat = torch.full_like(pictures, 77)
    assert (sharpness(flat) == 0).all() and (contrast(flat) == 0).all()
    assert sharpness(pictures[None]).shape == (1, 6)


def test_the_interval_is_the_textbook_one():
    result = score([1.0, 2.0, 3.0, 4.0])
    assert result.mean == 2.5
    assert result.interval == pytest.approx(1.96 * math.sqrt(5 / 3) / 2)


def test_shares_have_wilsons_interval():
    all_right = share([1.0] * 10)
    assert (all_right.mean, all_right.high) == (1, 1) and all_right.low == pytest.approx(
        0.7225, 1e-3
    )
    half = share([1.0] * 50 + [0.0] * 50)
    assert half.low == pytest.approx(0.4038, 1e-3) and half.high == pytest.approx(0.5962, 1e-3)
    assert math.isnan(share([]).mean)


def test_the_intervals_hold_the_truth_95_times_in_100():
    rng = np.random.default_rng(0)
    held = {"ratio": 0, "share": 0}
    for _ in range(1000):
        below = rng.uniform(5, 15, 40)
        above = 0.7 * below + rng.normal(0, 2, 40)
        found = ratio(above, below)
        held["ratio"] += abs(found.mean - 0.7) < found.interval
        answers = share((rng.random(40) < 0.9).astype(float))
        held["share"] += answers.low < 0.9 < answers.high
    assert 920 <= held["ratio"] <= 970 and 920 <= held["share"] <= 980


def test_reports_are_valid_json(tmp_path):
    @dataclass
    class Report:
        by_horizon: dict[int, object]
        missing: float

    write_json(tmp_path / "new" / "a.json", Report({4: score([1.0, 3.0])}, float("nan")))
    read = json.loads((tmp_path / "new" / "a.json").read_text(), parse_constant=pytest.fail)
    assert read["by_horizon"]["4"]["mean"] == 2
    assert read["missing"] is None

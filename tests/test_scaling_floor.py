"""What the formula says a narrow layer leaves over is what the best narrow layer leaves over."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import SAMPLE
from workshop_lib.data.clip import Clip
from workshop_lib.data.clips import ClipConfig, fixed_clips
from workshop_lib.data.splits import split_shards
from workshop_lib.models.diffusion_math import from_x0
from workshop_lib.models.noise_schedules import TableSchedule
from workshop_lib.scaling_floor import floor_of, patches_of, width_floor
from workshop_lib.training.live import from_recipe


@pytest.fixture(scope="module")
def clip() -> Clip:
    config = ClipConfig(length=2, batch_size=64, lanes=1)
    return next(iter(fixed_clips(split_shards(SAMPLE / "easy", "train"), config, 1)))


def said_through(width: int, targets: torch.Tensor) -> float:
    """Mean squared error on one half of the targets (count, n), when a layer of this width, best
    for the other half by least squares, is told the answers."""
    rows = targets - targets.mean(dim=0)
    learned, fresh = rows[::2], rows[1::2]
    kept = torch.linalg.svd(learned.T @ learned)[2][:width]
    return float((fresh - fresh @ kept.T @ kept).square().mean())


@pytest.mark.parametrize("width", [24, 96, 160])
@pytest.mark.parametrize("prediction", ["v", "x"])
def test_the_floor_is_what_least_squares_reaches(prediction: str, width: int, clip: Clip) -> None:
    chance = torch.Generator().manual_seed(0)
    patches, schedule = patches_of(clip, 8).double(), TableSchedule("sigmoid")
    sigmas = schedule.alpha_sigma(torch.arange(1, 1001))[1].double()
    # Levels are drawn as often as their errors count: those of x0 are divided by sigma^2 in v.
    counts = 1 / sigmas.square() if prediction == "x" else torch.ones_like(sigmas)
    level = torch.multinomial(counts, 40_000, replacement=True, generator=chance) + 1
    alpha, sigma = (each[:, None].double() for each in schedule.alpha_sigma(level))
    x0 = patches[torch.randint(len(patches), (40_000,), generator=chance)]
    x = alpha * x0 + sigma * torch.randn(x0.shape, generator=chance, dtype=torch.float64)
    reached = said_through(width, from_x0(prediction, x0, x, alpha, sigma)) * float(counts.mean())
    # Pictures have rare directions, which take more draws to find than noise does.
    near = {"v": 0.06, "x": 0.2}[prediction]
    assert reached == pytest.approx(width_floor(prediction, width, patches), rel=near)


def test_without_a_picture_only_the_noise_is_lost() -> None:
    gray = torch.zeros(10, 192)
    kept = TableSchedule("sigmoid").alpha_sigma(torch.arange(1, 1001))[0].square().mean()
    assert width_floor("v", 160, gray) == pytest.approx(float(kept) * 32 / 192)
    assert width_floor("v", 160, gray) == pytest.approx(0.083, abs=5e-4)  # the public model's
    assert width_floor("x", 160, gray) == 0.0


@pytest.mark.parametrize("prediction", ["v", "x"])
def test_there_is_none_where_the_layer_is_wide_enough(prediction: str, clip: Clip) -> None:
    assert width_floor(prediction, 192, patches_of(clip, 8)) == 0.0
    assert width_floor(prediction, 256, patches_of(clip, 8)) == 0.0


def test_patches_are_squares_of_the_frames() -> None:
    frames = torch.randint(256, (1, 1, 64, 64, 3), dtype=torch.uint8)
    nothing = torch.zeros(1, 1, dtype=torch.int64)
    clip = Clip(frames, nothing, nothing.bool())
    square = clip.video[0, 0, :, 8:16, 24:32]
    one = patches_of(clip, 8)[1 * 8 + 3]
    assert torch.equal(one.sort().values, square.flatten().sort().values)


def test_a_model_is_asked_for_its_width_and_prediction(clip: Clip) -> None:
    net = {"kind": "dit", "dim": 32, "depth": 1, "heads": 2, "window": 2}
    plain, _ = from_recipe("diffusion/tiny", net=net, mean=None, data_std=0.0, prediction="v")
    assert floor_of(plain, clip) == (32, width_floor("v", 32, patches_of(clip, 8)))
    told, _ = from_recipe("diffusion/tiny", net=net)  # what the mean says, it need not say
    assert floor_of(told, clip) is None
    assert floor_of(from_recipe("tokenizer/tiny")[0], clip) is None

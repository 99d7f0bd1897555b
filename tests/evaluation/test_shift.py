"""The scroll estimator on shifts that are known."""

import pytest
import torch
import torch.nn.functional as F

from workshop_lib.data.actions import LEFT, RIGHT
from workshop_lib.data.game import GameConfig
from workshop_lib.evaluation.shift import scroll
from workshop_lib.worlds.game_world import GameWorld


@pytest.fixture(scope="module")
def landscape():
    """A large picture of blocks, some of them alike, as in the game: uint8 (160, 160, 3)."""
    generator = torch.Generator().manual_seed(1)
    blocks = (torch.rand(1, 3, 20, 20, generator=generator) * 3).round() / 3
    return (255 * F.interpolate(blocks, scale_factor=8))[0].movedim(0, -1).byte()


def view(landscape, x, y):
    return landscape[48 + y : 112 + y, 48 + x : 112 + x]


SHIFTS = [(0, 0), (1, 0), (-1, 0), (7, -3), (-20, 0), (28, 28), (-28, 5), (3, -28)]


@pytest.mark.parametrize("noise", [0, 20])
def test_known_shifts_are_found(landscape, noise):
    before = view(landscape, 0, 0).expand(len(SHIFTS), -1, -1, -1)
    after = torch.stack([view(landscape, -x, -y) for x, y in SHIFTS]).float()
    after = (after + noise * torch.randn(after.shape)).clamp(0, 255).byte()
    assert scroll(before, after).tolist() == [list(shift) for shift in SHIFTS]


def test_a_blurred_and_faded_picture_is_still_found(landscape):
    before = view(landscape, 0, 0)[None]
    after = view(landscape, 11, -4)[None].movedim(-1, 1).float()
    for _ in range(3):
        after = F.avg_pool2d(after, 3, 1, 1, count_include_pad=False)
    faded = (0.5 * after + 60).byte().movedim(1, -1)
    x, y = scroll(before, faded)[0].tolist()
    assert abs(x + 11) <= 1 and abs(y - 4) <= 1


def test_a_figure_in_the_middle_does_not_hold_the_picture_fast(landscape):
    before, after = view(landscape, 0, 0).clone(), view(landscape, -9, 0).clone()
    for picture in (before, after):
        picture[26:38, 28:36] = torch.tensor([255, 0, 255], dtype=torch.uint8)
    assert scroll(before[None], after[None])[0].tolist() == [9, 0]


@pytest.mark.usefixtures("procgen")
def test_running_right_scrolls_the_real_game_left():
    world = GameWorld(GameConfig(), count=8, seed=2)
    begun = world.begin()
    ends = {}
    for key in (LEFT, RIGHT):
        state = begun
        for _ in range(8):
            frame, state = world.step(state, torch.full((8,), key))
        ends[key] = scroll(begun.frames[:, -1], frame)[:, 0]
    assert (ends[LEFT] >= 0).all() and (ends[RIGHT] <= 0).all()
    assert (ends[LEFT] - ends[RIGHT]).float().mean() > 4

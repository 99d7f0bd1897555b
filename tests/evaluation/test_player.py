"""Finding the player in the middle of real pictures, and missing it where it is not."""

import pytest
import torch

from tests.conftest import SAMPLE
from workshop_lib.evaluation.heldout import heldout_episodes
from workshop_lib.evaluation.player import elsewhere, learn_to_find, middle, player_of


@pytest.fixture(scope="module")
def real():
    """Real pictures to learn from, uint8 (B, T, H, W, C), and others."""
    shown = heldout_episodes(SAMPLE / "easy", "train", 90, 16).frames
    return shown, heldout_episodes(SAMPLE / "easy", "test", 16, 16).frames.flatten(0, 1)


@pytest.fixture(scope="module")
def finder(real):
    return player_of(real[0])


def without_player(frames):
    """The same pictures, with a window from elsewhere over the player."""
    erased = frames.clone()
    middle(erased)[:] = elsewhere(frames, torch.Generator().manual_seed(0))
    return erased


def test_a_finder_sees_the_player_of_other_levels(finder, real):
    assert finder.sees(real[1]).float().mean() > 0.95
    assert finder.sees(without_player(real[1])).float().mean() < 0.02


def test_the_player_is_missed_wherever_the_clip_lost_it(finder, real):
    clip = real[1][:6].view(2, 3, 64, 64, 3).clone()
    clip[1, 1:] = without_player(clip[1, 1:])
    assert finder.sees(clip).tolist() == [[True] * 3, [True, False, False]]


def test_windows_from_elsewhere_keep_away_from_the_middle():
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    place = torch.stack([rows, columns, rows], dim=-1).expand(500, -1, -1, -1)
    windows = elsewhere(place, torch.Generator().manual_seed(0))
    assert windows.shape == (500, 12, 12, 3)
    away = (windows[:, 0, 0, :2] - middle(place)[:, 0, 0, :2]).abs().amax(dim=1)
    assert away.min() >= 9 and away.max() == 26


def test_equal_seeds_give_equal_finders_and_leave_the_random_state_alone(real):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, two = (learn_to_find(real[1][:32], seed=5) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    windows = middle(real[1][:8])
    assert torch.equal(one(windows), two(windows))


def test_pictures_of_something_else_have_no_player():
    noise = torch.randint(0, 256, (8, 4, 64, 64, 3), dtype=torch.uint8)
    assert player_of(noise) is None
    assert player_of(noise[:, :, :16, :16]) is None, "no room for a window beside the middle"

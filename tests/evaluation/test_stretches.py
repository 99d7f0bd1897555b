"""Control from recordings alone."""

import pytest
import torch

from tests.conftest import SAMPLE
from tests.evaluation.worlds import ScrollWorld
from workshop_lib.data.actions import ACTIONS, HORIZONTAL, LEFT, RIGHT
from workshop_lib.data.clip import Clip
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.shift import scroll
from workshop_lib.evaluation.stretches import find_stretches, measure_stretches, mirrored
from workshop_lib.worlds.copy_world import CopyWorld


@pytest.fixture(scope="module")
def scrolling():
    """A picture that goes round by a pixel a frame, left or right by the key held."""
    generator = torch.Generator().manual_seed(0)
    blocks = torch.rand(6, 3, 16, 16, generator=generator)
    picture = (255 * torch.nn.functional.interpolate(blocks, size=(64, 64))).byte()
    actions = torch.tensor([LEFT, RIGHT] * 3)[:, None].repeat(1, 16)
    world, frames = ScrollWorld(), [picture.movedim(1, -1)]
    for t in range(15):
        frames.append(world.step(frames[-1], actions[:, t])[0])
    return Clip(torch.stack(frames, dim=1), actions, torch.zeros(6, 16, dtype=torch.bool))


def test_the_true_world_is_right_and_has_gain_1(scrolling):
    report = measure_stretches(ScrollWorld(), scrolling)
    assert (report.left.mean, report.right.mean, report.gain.mean) == (1, 1, 1)
    assert report.stretches == 6


def test_copying_and_wrong_worlds_are_known(scrolling):
    copying = measure_stretches(CopyWorld(), scrolling)
    assert (copying.left.mean, copying.right.mean, copying.gain.mean) == (0.5, 0.5, 0)
    wrong = measure_stretches(ScrollWorld(speed=-1), scrolling)
    assert (wrong.left.mean, wrong.right.mean, wrong.gain.mean) == (0, 0, -1)
    fast = measure_stretches(ScrollWorld(speed=2), scrolling)
    assert fast.gain.mean == 2


def test_mirroring_exchanges_left_and_right_only():
    names = [ACTIONS[int(k)].name for k in mirrored(torch.arange(15))]
    expected = [
        a.name.replace("left", "L").replace("right", "left").replace("L", "right") for a in ACTIONS
    ]
    assert names == expected


def test_found_stretches_hold_a_key_and_scroll():
    clip = find_stretches(SAMPLE / "easy", "train", count=12, prompt=4)
    held = torch.from_numpy(HORIZONTAL)[clip.actions[:, 3:11]]
    assert (held == held[:, :1]).all() and set(held[:, 0].tolist()) == {-1, 1}
    moved = scroll(clip.frames[:, 3], clip.frames[:, -1])[:, 0]
    assert (-held[:, 0] * moved >= 5).all()
    assert clip.frames.shape[:2] == (len(clip), 12) and len(clip) <= 12


def test_none_at_all_is_said(dataset):
    with pytest.raises(WorkshopError, match="nobody holds left or right"):
        find_stretches(dataset, "val", count=10, prompt=150)

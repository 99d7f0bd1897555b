"""Worlds whose levels end: each dream begins anew by itself, and is a dream like all others."""

import pytest
import torch

from tests.conftest import SAMPLE
from tests.endings import Ends
from workshop_lib.data.actions import JUMP, LEFT_JUMP, RIGHT
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.heldout import heldout_episodes
from workshop_lib.models.termination import OVER, REWARDED
from workshop_lib.worlds.copy_world import CopyWorld
from workshop_lib.worlds.ending_world import EndingWorld, rows
from workshop_lib.worlds.opening import open_termination, open_world


@pytest.fixture(scope="module")
def clip():
    return heldout_episodes(SAMPLE / "easy", "test", 3, 12)


@pytest.fixture(scope="module", params=["dynamics-tiny", "next_frame-tiny", "diffusion-unet-tiny"])
def dreaming(request):
    return open_world(request.param)


def begin(world, clip):
    return world.begin(clip.frames[:, :8], clip.actions[:, :7])


def test_each_dream_begins_anew_by_itself(dreaming, clip) -> None:
    """Dream 0 goes on as if there were no ends; dream 1 goes on after its end from where it began,
    as a world does that begins there with what was pressed."""
    world = EndingWorld(dreaming, Ends())
    state = plain = begin(world, clip)
    plain = begin(dreaming, clip)
    for keys in ([7, 7, 7], [7, 7, JUMP]):
        frame, state = world.step(state, torch.tensor(keys))
        expected, plain = dreaming.step(plain, torch.tensor(keys))
    assert state.ended.tolist() == [0, 0, OVER]
    assert torch.equal(frame[:2], expected[:2])
    assert torch.equal(frame[2], clip.frames[2, 7])
    frame, state = world.step(state, torch.full((3,), RIGHT))
    expected, _ = dreaming.step(plain, torch.full((3,), RIGHT))
    again, _ = dreaming.step(begin(dreaming, clip), torch.full((3,), RIGHT))
    assert state.ended.tolist() == [0, 0, 0]
    assert torch.equal(frame[:2], expected[:2])
    near = (frame[2].float() - again[2].float()).abs().mean()  # other dice, the same moment
    assert near < 10 and near < (frame[2].float() - expected[2].float()).abs().mean()


def test_another_try_is_another_dream() -> None:
    """One dream alone, the same keys after its end as before: the world draws anew."""
    clip = heldout_episodes(SAMPLE / "easy", "test", 2, 12)[:1]
    world = EndingWorld(open_world("dynamics-tiny"), Ends())
    state, tries = begin(world, clip), []
    for _ in range(2):
        for _ in range(6):
            frame, state = world.step(state, torch.tensor([RIGHT]))
        tries.append(frame)
        again, state = world.step(state, torch.tensor([JUMP]))
        assert torch.equal(again, clip.frames[:, 7])
    assert not torch.equal(*tries)


def test_the_model_sees_the_frames_of_the_level_alone(clip) -> None:
    keys = Ends()
    world = EndingWorld(CopyWorld(), keys)
    state = begin(world, clip)
    _, state = world.step(state, torch.tensor([7, 7, JUMP]))
    assert torch.equal(keys.seen[-1], clip.frames[:, 5:8])
    _, state = world.step(state, torch.tensor([7, 7, 7]))
    assert torch.equal(keys.seen[-1][2], clip.frames[2, 5:8])
    assert torch.equal(keys.seen[-1][0], clip.frames[0, [6, 7, 7]])


def test_a_moment_can_be_stepped_again_and_ends_turned_off(clip) -> None:
    world = EndingWorld(CopyWorld(), Ends())
    state = begin(world, clip[:1])
    assert world.step(state, torch.tensor([LEFT_JUMP]))[1].ended.tolist() == [REWARDED]
    assert world.step(state, torch.tensor([JUMP]))[1].ended.tolist() == [OVER]
    world.ends = False
    assert world.step(state, torch.tensor([JUMP]))[1].ended.tolist() == [0]


def test_what_does_not_fit_is_refused(clip) -> None:
    dreaming = open_world("dynamics-tiny")
    world = EndingWorld(dreaming, Ends())
    state = world.begin(clip.frames[:, 7:8], clip.actions[:, :0])
    _, state = world.step(state, torch.tensor([7, 7, 7]))
    with pytest.raises(WorkshopError, match="give a longer prompt"):
        world.step(state, torch.tensor([7, 7, JUMP]))
    frame, _ = world.step(state, torch.tensor([JUMP, JUMP, JUMP]))  # all of them: nothing to mix
    assert torch.equal(frame, clip.frames[:, 7])
    few = CopyWorld()
    few.num_actions = 4
    with pytest.raises(WorkshopError, match=r"knows 15 keys cannot say .* of 4 actions"):
        EndingWorld(few, Ends())
    with pytest.raises(WorkshopError, match="holds a dynamics, not a termination"):
        open_termination("dynamics-tiny")


def test_rows_of_tensors() -> None:
    some = torch.tensor([True, False])
    assert rows(some, torch.ones(2, 3), torch.zeros(2, 3)).tolist() == [[1, 1, 1], [0, 0, 0]]

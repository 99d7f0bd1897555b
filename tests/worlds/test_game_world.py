"""The real game behind the two verbs: states never change, so any moment can branch."""

import pytest
import torch

from workshop_lib.data.actions import JUMP, LEFT, NOTHING, RIGHT
from workshop_lib.data.game import GameConfig
from workshop_lib.errors import WorkshopError
from workshop_lib.worlds.game_world import HISTORY, GameWorld, branch

pytestmark = pytest.mark.usefixtures("procgen")


def hold(world, state, action, steps):
    frames = []
    for _ in range(steps):
        frame, state = world.step(state, torch.full((world.count,), action))
        frames.append(frame)
    return torch.stack(frames, dim=1), state


def test_a_state_can_be_stepped_again_and_again():
    world = GameWorld(GameConfig(look="hard"), count=2)
    _, start = hold(world, world.begin(levels=[3, 4]), RIGHT, 15)
    left, _ = hold(world, start, LEFT, 8)
    right, _ = hold(world, start, RIGHT, 8)
    again, _ = hold(world, start, LEFT, 8)
    assert torch.equal(left, again)
    assert not torch.equal(left, right)


def test_one_moment_branches_into_many_futures():
    one = GameWorld()
    _, state = hold(one, one.begin(levels=[12]), RIGHT, 20)
    four = GameWorld(count=4, seed=99)
    future = branch(state, game=0, count=4)
    for _ in range(6):
        frame, future = four.step(future, torch.tensor([LEFT, RIGHT, JUMP, NOTHING]))
    assert len({f.numpy().tobytes() for f in frame}) == 4
    # the fourth future is the one that the single game has
    alone, _ = hold(one, state, NOTHING, 6)
    assert torch.equal(frame[3], alone[0, -1])


def test_moments_pass_from_world_to_world():
    a, b = GameWorld(GameConfig(look="hard")), GameWorld(GameConfig(look="hard"), seed=5)
    _, state = hold(a, a.begin(levels=[8]), RIGHT, 10)
    other = b.begin(moments=state.moments)
    assert torch.equal(other.frames[:, -1], state.frames[:, -1])
    assert torch.equal(hold(a, state, RIGHT, 5)[0], hold(b, other, RIGHT, 5)[0])


def test_the_prompt_is_the_recent_past_of_this_level():
    world = GameWorld(count=2)
    frames, state = hold(world, world.begin(levels=[1, 2]), RIGHT, 5)
    prompt, actions = world.prompt(state)
    assert torch.equal(prompt[:, 1:], frames) and actions.tolist() == [[RIGHT] * 5] * 2
    _, state = hold(world, state, NOTHING, HISTORY + 10)
    assert world.prompt(state)[0].shape[1] <= HISTORY
    assert world.prompt(state)[1].shape[1] == world.prompt(state)[0].shape[1] - 1


def test_a_new_level_starts_a_new_past():
    world = GameWorld(GameConfig(levels=(0, 50)), seed=1)
    state = world.begin()
    for _ in range(400):
        before = state
        _, state = world.step(state, torch.tensor([8]))  # right-jump: it will end somehow
        if int(state.age) == 1:
            break
    assert int(state.age) == 1 and int(before.age) > 5
    assert world.prompt(state)[0].shape[1] == 1


def test_bad_calls_are_refused():
    world = GameWorld(count=2)
    state = world.begin()
    with pytest.raises(WorkshopError, match="2 saved moments"):
        world.begin(levels=[1])
    with pytest.raises(WorkshopError, match="not at both"):
        world.begin(levels=[1, 2], moments=state.moments)
    with pytest.raises(WorkshopError, match="0 to 14"):
        world.step(state, torch.tensor([0, 99]))


def test_without_saving_only_the_newest_state_can_be_stepped():
    world = GameWorld(GameConfig(name="gymnasium:CartPole-v1"), count=2)
    old = world.begin()
    _, new = world.step(old, torch.tensor([0, 1]))
    world.step(new, torch.tensor([0, 1]))
    with pytest.raises(WorkshopError, match="cannot go back"):
        world.step(old, torch.tensor([0, 1]))

"""A dream by the next-frame predictor: immutable states, prompts of any length."""

import pytest
import torch

from tests.conftest import SAMPLE
from tests.shaking import shaken_weights
from workshop_lib.data.actions import LEFT, RIGHT
from workshop_lib.data.clips import ClipBatches, ClipConfig
from workshop_lib.data.splits import split_shards
from workshop_lib.errors import WorkshopError
from workshop_lib.models.files import load_model, save_model
from workshop_lib.models.next_frame import NextFrame, NextFrameConfig
from workshop_lib.worlds.next_frame_world import NextFrameWorld
from workshop_lib.worlds.world import World


@pytest.fixture(scope="module")
def model():
    """Untrained, but every weight does something."""
    torch.manual_seed(0)
    made = NextFrame(NextFrameConfig(width=16, depth=1, middle=2, cond_dim=32))
    return shaken_weights(made)


@pytest.fixture(scope="module")
def prompt():
    """Two real pasts of 8 frames, and the 7 actions in them."""
    shards = split_shards(SAMPLE / "easy", "train")
    clip = next(iter(ClipBatches(shards, ClipConfig(length=8, batch_size=2, lanes=2))))
    return clip.frames, clip.actions[:, :-1]


def hold(world, state, action, steps):
    frames = []
    for _ in range(steps):
        frame, state = world.step(state, torch.full((2,), action))
        frames.append(frame)
    return torch.stack(frames, dim=1), state


def test_a_state_can_be_stepped_again_and_again(model, prompt):
    world: World = NextFrameWorld(model)
    start = world.begin(*prompt)
    right, later = hold(world, start, RIGHT, 3)
    left, _ = hold(world, start, LEFT, 3)
    again, _ = hold(world, start, RIGHT, 3)
    assert torch.equal(right, again) and not torch.equal(right, left)
    assert right.dtype == torch.uint8 and right.shape == (2, 3, 64, 64, 3)
    assert torch.equal(later.frames[:, -3:], right)


def test_only_the_last_frames_count_and_no_later_ones_are_forgotten(model, prompt):
    world = NextFrameWorld(model)
    frames, actions = prompt
    k = world.context
    long, short = world.begin(frames, actions), world.begin(frames[:, -k:], actions[:, 1 - k :])
    assert torch.equal(hold(world, long, RIGHT, 2)[0], hold(world, short, RIGHT, 2)[0])
    other = frames.clone()
    other[:, -k] = 255 - other[:, -k]
    changed = hold(world, world.begin(other, actions), RIGHT, 1)[0]
    assert not torch.equal(changed, hold(world, long, RIGHT, 1)[0])


def test_a_dream_goes_on_from_the_frames_it_showed(model, prompt):
    world = NextFrameWorld(model)
    frames, actions = prompt
    dream, state = hold(world, world.begin(frames, actions), RIGHT, 5)
    shown = torch.cat([frames, dream], dim=1)
    pressed = torch.cat([actions, torch.full((2, 5), RIGHT)], dim=1)
    anew = world.begin(shown, pressed)
    assert torch.equal(hold(world, state, LEFT, 3)[0], hold(world, anew, LEFT, 3)[0])
    # and the model's own rollout is the same dream
    rollout = model.predict(frames, torch.cat([actions, torch.full((2, 5), RIGHT)], dim=1))
    assert torch.equal(rollout, dream)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_short_prompts_are_enough(model, prompt, length):
    world = NextFrameWorld(model)
    frames, actions = prompt
    state = world.begin(frames[:, :length], actions[:, : length - 1])
    dream, _ = hold(world, state, RIGHT, 6)
    assert dream.shape[1] == 6
    # each dream of a batch is its own
    alone = world.begin(frames[:1, :length], actions[:1, : length - 1])
    frame, _ = world.step(alone, torch.tensor([RIGHT]))
    assert (frame.int() - dream[:1, 0].int()).abs().max() <= 1


def test_it_runs_in_training_mode_too_and_leaves_the_model_as_it_is(model, prompt):
    world = NextFrameWorld(model)
    model.eval()
    calm = hold(world, world.begin(*prompt), RIGHT, 2)[0]
    model.train()
    assert torch.equal(calm, hold(world, world.begin(*prompt), RIGHT, 2)[0])
    assert model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_model_from_a_file_dreams_the_same(model, prompt, tmp_path):
    save_model(model, "next_frame", tmp_path / "a.safetensors", {})
    again = NextFrameWorld(load_model(tmp_path / "a.safetensors"))
    world = NextFrameWorld(model)
    real, other = (hold(w, w.begin(*prompt), RIGHT, 4)[0] for w in (world, again))
    assert torch.equal(real, other)


def test_what_does_not_fit_is_refused(model, prompt):
    world = NextFrameWorld(model)
    frames, actions = prompt
    with pytest.raises(WorkshopError, match=r"needs actions \(2, 7\)"):
        world.begin(frames, actions[:, 1:])
    with pytest.raises(WorkshopError, match="uint8"):
        world.begin(frames.float(), actions)
    with pytest.raises(WorkshopError, match="T >= 1"):
        world.begin(frames[:, :0], actions)
    with pytest.raises(WorkshopError, match="0 to 14"):
        world.begin(frames, actions + 15)
    state = world.begin(frames, actions)
    with pytest.raises(WorkshopError, match="0 to 14"):
        world.step(state, torch.tensor([0, 15]))
    with pytest.raises(WorkshopError, match="2 dreams"):
        world.step(state, torch.tensor([0]))

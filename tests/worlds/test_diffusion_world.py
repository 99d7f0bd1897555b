"""A dream by diffusion: immutable states, prompts of any length, a memory that changes nothing."""

import pytest
import torch

from tests.conftest import SAMPLE
from workshop_lib.data.actions import LEFT, RIGHT
from workshop_lib.data.clips import ClipBatches, ClipConfig
from workshop_lib.data.splits import split_shards
from workshop_lib.errors import WorkshopError
from workshop_lib.models.diffusion import Diffusion
from workshop_lib.models.diffusion_config import DiffusionConfig
from workshop_lib.models.files import save_model
from workshop_lib.models.next_frame import NextFrameConfig
from workshop_lib.nn.dit import DiTConfig
from workshop_lib.nn.oasis import OasisConfig
from workshop_lib.worlds.diffusion_world import DiffusionWorld
from workshop_lib.worlds.opening import open_world
from workshop_lib.worlds.world import World

OURS = DiffusionConfig(
    net=DiTConfig(dim=32, depth=2, heads=2, window=3),
    see=2,
    displacement=True,
    data_std=0.25,
    steps=2,
)
MEAN = DiffusionConfig(
    net=DiTConfig(dim=32, depth=1, heads=2, window=3),
    mean=NextFrameConfig(width=8),
    see=1,
    data_std=0.25,
    steps=3,
)
PUBLIC = DiffusionConfig(
    net=OasisConfig(dim=32, depth=2, heads=2, window=3),
    prediction="v",
    training="independent",
    steps=2,
)


@pytest.fixture(scope="module", params=[OURS, MEAN, PUBLIC], ids=["dit", "mean", "oasis"])
def model(request):
    """Untrained, but every weight does something."""
    torch.manual_seed(0)
    made = Diffusion(request.param)
    with torch.no_grad():
        for p in made.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    return made


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


def near(a, b):
    """The same but for rounding."""
    return (a.int() - b.int()).abs().max() <= 1


def test_a_state_can_be_stepped_again_and_again(model, prompt):
    world: World = DiffusionWorld(model)
    start = world.begin(*prompt)
    right, later = hold(world, start, RIGHT, 6)
    left, _ = hold(world, start, LEFT, 6)
    again, _ = hold(world, start, RIGHT, 6)
    assert near(right, again) and not near(right, left)
    assert right.dtype == torch.uint8 and right.shape == (2, 6, 64, 64, 3)
    assert torch.equal(later.frames[:, -3:], right[:, -3:])


def test_the_memory_changes_nothing(model, prompt):
    """A world that sees a moment for the first time dreams on from it in the same way."""
    world = DiffusionWorld(model)
    state = hold(world, world.begin(*prompt), RIGHT, 5)[1]
    on = hold(world, state, LEFT, 2)[0]
    assert near(on, hold(DiffusionWorld(model), state, LEFT, 2)[0])


def test_one_frame_costs_its_steps_and_one_pass_more(model, prompt):
    world = DiffusionWorld(model, steps=10)
    _, state = hold(world, world.begin(*prompt), RIGHT, 1)
    passes = []
    net = world.model.net
    net.register_forward_pre_hook(lambda _, inputs: passes.append(inputs[0].shape[1]))
    hold(world, state, RIGHT, 1)
    assert passes == [1] * (11 - (model.mean is not None))  # of pure noise the mean is believed


def test_what_is_behind_the_reach_of_the_past_is_forgotten(model, prompt):
    world = DiffusionWorld(model)
    frames, actions = prompt
    kept = model.kept
    assert kept < 8
    whole, end = (
        world.begin(frames, actions),
        world.begin(frames[:, -kept:], actions[:, 1 - kept :]),
    )
    assert torch.equal(whole.frames, end.frames)
    assert torch.equal(whole.led_by[:, 1:], end.led_by[:, 1:])


@pytest.mark.parametrize("length", [1, 2])
def test_short_prompts_are_enough(model, prompt, length):
    world = DiffusionWorld(model)
    frames, actions = prompt
    state = world.begin(frames[:, :length], actions[:, : length - 1])
    assert hold(world, state, RIGHT, 8)[0].shape[1] == 8


def test_seeds_samplers_and_guidance_change_the_dream(model, prompt):
    def dream(**options):
        world = DiffusionWorld(model, **options)
        return hold(world, world.begin(*prompt), RIGHT, 2)[0]

    plain = dream()
    assert torch.equal(plain, dream())
    others = [{"seed": 1}, {"steps": 5}, {"guidance": 4.0}, {"stabilization": 900}]
    for options in (*others, {"sampler": "dpm", "steps": 5}):
        assert not near(plain, dream(**options)), options


def test_play_computes_what_the_model_does(model, prompt):
    frames, actions = prompt
    model.eval()
    for train in (True, False):
        model.train(train)
        world = DiffusionWorld(model)
        state = world.begin(frames, actions)
        memory = model.recall(state.frames, state.led_by)
        x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        how = x, torch.tensor(800.0), torch.tensor([RIGHT, LEFT])
        with torch.no_grad():
            ours = model.denoise(*how, memory)
            played = world.model.denoise(*how, world._memory_of(state))
        assert torch.allclose(ours, played, atol=1e-4)
        assert model.training == train


def test_a_model_from_a_file_dreams_the_same(model, prompt, tmp_path):
    save_model(model, "diffusion", tmp_path / "a.safetensors", {})
    again = open_world(tmp_path / "a.safetensors", steps=3, seed=2)
    world = DiffusionWorld(model, steps=3, seed=2)
    real, other = (hold(w, w.begin(*prompt), RIGHT, 3)[0] for w in (world, again))
    assert near(real, other)


def test_what_does_not_fit_is_refused(model, prompt):
    world = DiffusionWorld(model)
    frames, actions = prompt
    for wrong, complaint in (
        ((frames, actions[:, 1:]), r"needs actions \(2, 7\)"),
        ((frames.float(), actions), "uint8"),
        ((frames[:, :0], actions), "T >= 1"),
        ((frames[:, :, :32], actions), "frames of 64 x 64 x 3, got 32 x 64 x 3"),
        ((frames, actions + 15), "0 to 14"),
    ):
        with pytest.raises(WorkshopError, match=complaint):
            world.begin(*wrong)
    state = world.begin(frames, actions)
    with pytest.raises(WorkshopError, match="0 to 14"):
        world.step(state, torch.tensor([0, 15]))
    with pytest.raises(WorkshopError, match="2 dreams"):
        world.step(state, torch.tensor([0]))
    for options, complaint in (
        ({"steps": 0}, "steps must be 1 or more"),
        ({"sampler": "magic"}, "choose one of ddim"),
        ({"sampler": "heun"}, "use 'ddim'"),
    ):
        with pytest.raises(WorkshopError, match=complaint):
            DiffusionWorld(model, **options)

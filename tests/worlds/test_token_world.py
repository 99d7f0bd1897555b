"""A dream in tokens: immutable states, the cache kept out of sight, latent or real keys."""

from dataclasses import replace

import pytest
import torch

from tests.conftest import SAMPLE
from tests.shaking import shaken_weights
from workshop_lib.bench_play import uncached_step
from workshop_lib.data.actions import LEFT, RIGHT
from workshop_lib.data.clips import ClipBatches, ClipConfig
from workshop_lib.data.splits import split_shards
from workshop_lib.errors import WorkshopError
from workshop_lib.models.dynamics import Dynamics
from workshop_lib.models.dynamics_config import DynamicsConfig
from workshop_lib.models.tokenizer import Tokenizer, TokenizerConfig
from workshop_lib.nn.quantizers import FSQConfig
from workshop_lib.worlds.token_world import TokenWorld
from workshop_lib.worlds.world import World

TOKENIZERS = {
    "conv": dict(architecture="conv", dim=8, depth=1, latent_dim=8),
    "vit": dict(architecture="vit", dim=16, depth=2, heads=2, latent_dim=8, window=3),
}


def make_tokenizer(kind="conv", **changes):
    torch.manual_seed(0)
    config = {**TOKENIZERS[kind], "quantizer": FSQConfig(levels=(4, 4, 4)), **changes}
    return Tokenizer(TokenizerConfig(**config))


def make_dynamics(**changes):
    """Untrained, but every weight does something."""
    torch.manual_seed(0)
    config = dict(num_codes=64, code_factors=(4, 4, 4), dim=32, depth=2, heads=2, window=3)
    made = Dynamics(DynamicsConfig(**{**config, **changes}))
    return shaken_weights(made, 0.2)


@pytest.fixture(scope="module")
def prompt():
    """Two real pasts of 9 frames, and the 8 actions in them."""
    shards = split_shards(SAMPLE / "easy", "train")
    clip = next(iter(ClipBatches(shards, ClipConfig(length=9, batch_size=2, lanes=2))))
    return clip.frames, clip.actions[:, :-1]


def hold(world, state, action, steps):
    frames = []
    for _ in range(steps):
        frame, state = world.step(state, torch.full((len(state.tokens),), action))
        frames.append(frame)
    return torch.stack(frames, dim=1), state


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_state_can_be_stepped_again_and_again(kind, temperature, prompt):
    """Also an old one, whose keys and values the world has long replaced."""
    world = TokenWorld(make_tokenizer(kind), make_dynamics(), temperature=temperature)
    start = world.begin(*prompt)
    right, later = hold(world, start, RIGHT, 8)
    left, _ = hold(world, start, LEFT, 8)
    again, _ = hold(world, start, RIGHT, 8)
    assert torch.equal(right, again) and not torch.equal(right, left)
    assert right.dtype == torch.uint8 and right.shape == (2, 8, 64, 64, 3)
    shown = world.tokenizer.decode(later.tokens[:, -3:])[:, -1]
    assert torch.equal(shown, right[:, -1])
    # a fork in the middle of a dream
    _, middle = hold(world, start, RIGHT, 4)
    one, _ = hold(world, middle, LEFT, 1)
    two, _ = hold(world, middle, RIGHT, 4)
    assert torch.equal(two, right[:, 4:]) and torch.equal(hold(world, middle, LEFT, 1)[0], one)


@pytest.mark.parametrize("changes", [{}, {"body": "conv"}, {"palette": 1.0}], ids=str)
def test_the_cache_never_shows(changes, prompt):
    """Long after the start: a world that goes on and one that is new to the moment agree."""
    tokenizer, dynamics = make_tokenizer(), make_dynamics(**changes)
    world = TokenWorld(tokenizer, dynamics)
    _, state = hold(world, world.begin(*prompt), RIGHT, 20)
    fresh = TokenWorld(tokenizer, dynamics)
    assert torch.equal(hold(fresh, state, LEFT, 3)[0], hold(world, state, LEFT, 3)[0])
    # of equal size, but another moment: rows in another order, or a shorter past
    swapped = replace(state, tokens=state.tokens.flip(0), led_by=state.led_by.flip(0))
    short = replace(state, tokens=state.tokens[:, -2:], led_by=state.led_by[:, -2:])
    for other in (swapped, short):
        hold(world, state, LEFT, 1)
        expected = hold(TokenWorld(tokenizer, dynamics), other, LEFT, 2)[0]
        assert torch.equal(hold(world, other, LEFT, 2)[0], expected)


def test_going_on_costs_one_frame(prompt):
    """Frames that run through the transformer: one for each step, and with the first the newest,
    which is kept."""
    world = TokenWorld(make_tokenizer(), make_dynamics(), steps=4)
    state, passed = world.begin(*prompt), []
    world.dynamics.transformer.register_forward_pre_hook(
        lambda _, inputs: passed.append(inputs[0].shape[1])
    )
    _, state = hold(world, state, RIGHT, 1)
    assert passed == [4, 2, 1, 1, 1]  # 5 frames are all that the next one can depend on
    passed.clear()
    hold(world, state, RIGHT, 1)
    assert passed == [2, 1, 1, 1]
    passed.clear()
    hold(world, state, LEFT, 1)  # another action at the same moment
    assert passed == [1] * 4


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        (dict(window=16), 5),
        (dict(depth=1), 12),
        (dict(depth=1, window=2, action_input="prepend"), 12),
        (dict(depth=1, window=1), 3),
        (dict(depth=1, grid=(16, 16), group=2), 12),
        (dict(depth=1, drive="latent", num_actions=8), 12),
        (dict(body="conv"), 12),
        (dict(body="conv", window=2), 12),
        (dict(body="conv", palette=2.0), 12),
    ],
    ids=str,
)
def test_without_the_cache_it_is_the_same_dream(changes, steps, prompt):
    """As long as the past fits into the window, and where a frame's past is no longer than that
    (one block, convolutions), for ever."""
    dynamics = make_dynamics(**changes)
    tokenizer = make_tokenizer(patch=64 // dynamics.config.grid[0])
    world = TokenWorld(tokenizer, dynamics, Inference() if "drive" in changes else None)
    state = world.begin(*prompt)
    for step in range(steps):
        action = torch.tensor([RIGHT, step % 2])
        expected = uncached_step(world, state, action)
        frame, state = world.step(state, action)
        assert torch.equal(frame, expected)


def test_an_interrupted_step_leaves_no_trace(prompt):
    """Stop is pressed while a frame is dreamed, at any of its passes: it can be dreamed again."""
    world = TokenWorld(make_tokenizer(), make_dynamics())
    state = world.begin(*prompt)
    expected = hold(world, state, RIGHT, 4)[0]
    for passes in range(1, 9):

        def stop(*_):
            nonlocal passes
            passes -= 1
            if passes == 0:
                raise KeyboardInterrupt

        _, later = hold(world, state, RIGHT, 1)
        stopping = world.dynamics.transformer.blocks[1].time.register_forward_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            hold(world, later, RIGHT, 3)
        stopping.remove()
        assert torch.equal(hold(world, later, RIGHT, 3)[0], expected[:, 1:])


def test_only_the_past_within_reach_is_kept(prompt):
    world = TokenWorld(make_tokenizer(), make_dynamics())
    frames, actions = prompt
    long, short = world.begin(frames, actions), world.begin(frames[:, -5:], actions[:, -4:])
    assert long.tokens.shape[1] == short.tokens.shape[1] == 5
    again = [hold(world, state, RIGHT, 6) for state in (long, short)]
    assert torch.equal(again[0][0], again[1][0]) and again[0][1].tokens.shape[1] == 5
    nearer = world.begin(frames[:, -4:], actions[:, -3:])
    assert not torch.equal(hold(world, nearer, RIGHT, 6)[0], again[0][0])


def test_dreams_side_by_side_do_not_mix(prompt):
    world = TokenWorld(make_tokenizer(), make_dynamics(), temperature=0.0)
    together, _ = hold(world, world.begin(*prompt), RIGHT, 6)
    for row in range(2):
        alone = world.begin(prompt[0][row : row + 1], prompt[1][row : row + 1])
        assert torch.equal(hold(world, alone, RIGHT, 6)[0][0], together[row])


def test_the_seed_decides_what_is_drawn(prompt):
    parts = make_tokenizer(), make_dynamics()

    def dream(**how):
        world = TokenWorld(*parts, **how)
        return hold(world, world.begin(*prompt), RIGHT, 3)[0]

    assert torch.equal(dream(seed=1), dream(seed=1))
    assert not torch.equal(dream(seed=1), dream(seed=2))
    assert torch.equal(dream(seed=1, temperature=0.0), dream(seed=2, temperature=0.0))


def test_a_single_frame_is_prompt_enough(prompt):
    world: World = TokenWorld(make_tokenizer(), make_dynamics(window=1), steps=1)
    state = world.begin(prompt[0][:, :1], prompt[1][:, :0])
    assert hold(world, state, RIGHT, 3)[0].shape == (2, 3, 64, 64, 3)


def test_training_goes_on_without_the_world(prompt):
    dynamics = make_dynamics().train()
    world = TokenWorld(make_tokenizer(), dynamics)
    before, _ = hold(world, world.begin(*prompt), RIGHT, 2)
    with torch.no_grad():
        dynamics.output_bias.add_(torch.randn(64))
    assert dynamics.training and dynamics.output_bias.requires_grad
    assert torch.equal(hold(world, world.begin(*prompt), RIGHT, 2)[0], before)


class Inference:
    """A latent action model that reads the brightness of the later frame: codes 0 and 1."""

    def __init__(self, key_codes=None):
        self.key_codes = key_codes

    def infer(self, frames):
        return (frames[:, 1:].float().mean(dim=(2, 3, 4)) > 128).long()


def test_latent_actions_of_a_prompt_are_inferred(prompt):
    frames, actions = prompt
    world = TokenWorld(make_tokenizer(), make_dynamics(drive="latent", num_actions=2), Inference())
    assert world.num_actions == 2
    state = world.begin(frames, actions)
    assert torch.equal(state.led_by[:, 1:], Inference().infer(frames)[:, -4:])
    with pytest.raises(WorkshopError, match="0 to 1, got 7 to 7"):
        world.step(state, torch.tensor([7, 7]))


def test_keys_stand_for_latent_actions(prompt):
    parts = make_tokenizer(), make_dynamics(drive="latent", num_actions=2)
    by_code = TokenWorld(*parts, Inference())
    by_key = TokenWorld(*parts, Inference(key_codes=(torch.arange(15) % 2).expand(3, -1)))
    assert by_key.num_actions == 15
    state = by_code.begin(*prompt)
    for key in (0, 7):
        code = hold(by_code, state, key % 2, 1)[0]
        assert torch.equal(hold(by_key, by_key.begin(*prompt), key, 1)[0], code)


def test_what_a_key_stands_for_depends_on_what_led_to_the_moment(prompt):
    frames, actions = prompt
    after = torch.tensor([[1], [0], [1]]).expand(-1, 15)  # the other code than before, first 1
    world = TokenWorld(
        make_tokenizer(), make_dynamics(drive="latent", num_actions=2), Inference(key_codes=after)
    )
    state = world.begin(frames[:, -1:], actions[:, :0])
    told = []
    for _ in range(3):
        _, state = world.step(state, torch.full((len(frames),), RIGHT))
        told.append(state.led_by[:, -1].unique().tolist())
    assert told == [[1], [0], [1]]


def test_parts_that_do_not_fit_are_refused():
    with pytest.raises(WorkshopError, match=r"one grid of 4 frames \(time_patch\)"):
        TokenWorld(make_tokenizer("conv", architecture="magvit2", time_patch=4), make_dynamics())
    with pytest.raises(WorkshopError, match=r"grid and codes \(\(16, 16\), 64\)"):
        TokenWorld(make_tokenizer(patch=4), make_dynamics())
    with pytest.raises(WorkshopError, match="use the tokenizer that encoded its data"):
        TokenWorld(make_tokenizer(), make_dynamics(num_codes=27, code_factors=()))
    with pytest.raises(WorkshopError, match="drive 'latent', not 'actions'"):
        TokenWorld(make_tokenizer(), make_dynamics(), Inference())


def test_wrong_prompts_and_actions_are_refused(prompt):
    world = TokenWorld(make_tokenizer(), make_dynamics())
    frames, actions = prompt
    with pytest.raises(WorkshopError, match="must be uint8"):
        world.begin(frames.float(), actions)
    with pytest.raises(WorkshopError, match=r"needs actions \(2, 8\), got \(2, 7\)"):
        world.begin(frames, actions[:, 1:])
    with pytest.raises(WorkshopError, match="0 to 14"):
        world.begin(frames, actions + 15)
    with pytest.raises(WorkshopError, match="64, 64"):
        world.begin(frames[..., ::2, ::2, :], actions)
    state = world.begin(frames, actions)
    with pytest.raises(WorkshopError, match="2 dreams need as many actions"):
        world.step(state, torch.tensor([1]))
    with pytest.raises(WorkshopError, match="0 to 14, got -1 to 1"):
        world.step(state, torch.tensor([1, -1]))


def test_each_dream_keeps_a_palette_of_its_own(prompt):
    """Two pasts of one end, but with other frames long before it: what they showed still counts."""
    tokenizer, dynamics = make_tokenizer(), make_dynamics(palette=4.0)
    frames, actions = prompt
    state = TokenWorld(tokenizer, dynamics).begin(frames, actions)
    assert state.shown.sum(dim=1).tolist() == [9 * 64] * 2
    other = frames.clone()
    other[:, :4] = 255 - other[:, :4]  # five frames are all that the next one can depend on
    swapped = TokenWorld(tokenizer, dynamics).begin(other, actions)
    assert torch.equal(swapped.tokens, state.tokens) and not torch.equal(swapped.shown, state.shown)
    world = TokenWorld(tokenizer, dynamics)
    one, two = (hold(world, each, RIGHT, 3) for each in (state, swapped))
    assert not torch.equal(one[0], two[0])
    assert torch.equal(hold(world, state, RIGHT, 3)[0], one[0])
    assert one[1].shown.sum(dim=1).tolist() == pytest.approx([9 * 64 + 3 * 0.3 * 64] * 2)

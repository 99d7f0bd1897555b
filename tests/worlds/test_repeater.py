"""Dreams of pixels that pass through a tokenizer: they last, and are worlds like all others."""

import pytest
import torch

from tests.conftest import SAMPLE
from tests.shaking import shaken_weights
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.drift import long_play, measure_drift
from workshop_lib.evaluation.heldout import heldout_episodes
from workshop_lib.models.diffusion_unet import DiffusionUNet, DiffusionUNetConfig
from workshop_lib.models.next_frame import NextFrame, NextFrameConfig
from workshop_lib.models.tokenizer import Tokenizer, TokenizerConfig
from workshop_lib.pretrained import load_pretrained
from workshop_lib.worlds.diffusion_world import DiffusionWorld
from workshop_lib.worlds.next_frame_world import NextFrameWorld

SMALL = NextFrameConfig(width=16, depth=1, middle=1, cond_dim=32)


@pytest.fixture(scope="module")
def tokenizer():
    return load_pretrained("tokenizer-tiny")


def make(kind, tokenizer):
    torch.manual_seed(0)
    if kind == "next frame":
        return NextFrameWorld(shaken_weights(NextFrame(SMALL)).eval(), tokenizer)
    config = DiffusionUNetConfig(mean=SMALL, width=16, depth=1, middle=1, steps=2)
    return DiffusionWorld(shaken_weights(DiffusionUNet(config)).eval(), tokenizer)


def play(world, state, keys):
    frames = []
    for key in keys:
        frame, state = world.step(state, torch.full((len(state.frames),), key))
        frames.append(frame)
    return torch.stack(frames, dim=1), state


@pytest.mark.parametrize("kind", ["next frame", "diffusion"])
def test_what_is_shown_is_what_is_remembered(kind, tokenizer):
    world = make(kind, tokenizer)
    frames = torch.randint(0, 256, (2, 6, 64, 64, 3), dtype=torch.uint8)
    begun = world.begin(frames, torch.full((2, 5), 7))
    shown, state = play(world, begun, (7, 1))
    plain, _ = play(make(kind, None), begun, (7,))
    expected = tokenizer.reconstruct(plain)
    assert (shown[:, :1].float() - expected.float()).abs().mean() < 1  # packed, it rounds otherwise
    assert (shown[:, :1].float() - plain.float()).abs().mean() > 3
    assert torch.equal(state.frames[:, -2:], shown)


@pytest.mark.parametrize("kind", ["next frame", "diffusion"])
def test_any_moment_can_be_played_again_with_other_keys(kind, tokenizer):
    """Going on with what the world keeps is the same as beginning with what was shown."""
    world = make(kind, tokenizer)
    frames = torch.randint(0, 256, (1, 6, 64, 64, 3), dtype=torch.uint8)
    _, state = play(world, world.begin(frames, torch.full((1, 5), 7)), (7, 7))
    right, _ = play(world, state, (7, 7))
    left, _ = play(world, state, (1, 1))
    assert not torch.equal(left, right)
    assert torch.equal(play(world, state, (7, 7))[0], right)
    assert torch.equal(play(make(kind, tokenizer), state, (7, 7))[0], right)


def test_the_dreams_of_a_mean_last(tokenizer):
    """The shipped next-frame net, RIGHT held: alone, it has left the colors of the level behind."""
    clip = heldout_episodes(SAMPLE / "easy", "test", 6, 9)
    model = load_pretrained("next_frame-tiny")
    keys = long_play(6, 150)["right held"]
    alive = {}
    for name, through in (("alone", None), ("repeated", tokenizer)):
        world = NextFrameWorld(model, through)
        alive[name] = measure_drift(world, clip.frames[:, :8], clip.actions[:, :7], keys)[0].alive
    assert alive["repeated"] >= 5 / 6 and alive["alone"] <= 4 / 6


def test_only_a_tokenizer_of_single_frames_will_do():
    config = TokenizerConfig(architecture="vit", dim=32, depth=1, heads=2, latent_dim=16)
    with pytest.raises(WorkshopError, match=r"of architecture conv.* this one is vit"):
        NextFrameWorld(NextFrame(SMALL), Tokenizer(config))

"""From files to worlds, and what is said of files that do not go together."""

import json
from pathlib import Path

import pytest
import torch

from workshop_lib.data.actions import RIGHT
from workshop_lib.data.encoded import tokenizer_entry
from workshop_lib.errors import WorkshopError
from workshop_lib.models.diffusion import Diffusion
from workshop_lib.models.diffusion_config import DiffusionConfig
from workshop_lib.models.dynamics import Dynamics
from workshop_lib.models.dynamics_config import DynamicsConfig
from workshop_lib.models.files import load_model, save_model
from workshop_lib.models.next_frame import NextFrame, NextFrameConfig
from workshop_lib.models.tokenizer import Tokenizer, TokenizerConfig
from workshop_lib.nn.dit import DiTConfig
from workshop_lib.worlds.copy_world import CopyWorld
from workshop_lib.worlds.diffusion_world import DiffusionWorld
from workshop_lib.worlds.next_frame_world import NextFrameWorld
from workshop_lib.worlds.opening import open_world, options_of, share_options
from workshop_lib.worlds.token_world import TokenWorld
from workshop_lib.worlds.world import World


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A next-frame model, a tokenizer, and a file that says that it is a dynamics."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    net = NextFrame(NextFrameConfig(width=16, depth=1, middle=2, cond_dim=32))
    save_model(net, "next_frame", folder / "next.safetensors", {})
    tokenizer = Tokenizer(TokenizerConfig(dim=16, depth=1, latent_dim=16))
    save_model(tokenizer, "tokenizer", folder / "tokenizer.safetensors", {})
    save_model(tokenizer, "dynamics", folder / "dynamics.safetensors", {})
    return {path.stem: str(path) for path in folder.iterdir()}


def test_the_world_dreams_as_its_model_does(files):
    world: World = open_world(files["next"], device="auto")
    assert isinstance(world, NextFrameWorld)
    frames = torch.randint(0, 256, (2, 8, 64, 64, 3), dtype=torch.uint8)
    state = world.begin(frames, torch.full((2, 7), RIGHT))
    frame, _ = world.step(state, torch.full((2,), RIGHT))
    torch.manual_seed(0)
    again = NextFrame(NextFrameConfig(width=16, depth=1, middle=2, cond_dim=32)).eval()
    alone = NextFrameWorld(again)
    expected, _ = alone.step(
        alone.begin(frames, torch.full((2, 7), RIGHT)), torch.tensor([RIGHT] * 2)
    )
    assert torch.equal(frame, expected)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"model": "missing.safetensors"}, "missing.safetensors: no such file"),
        ({"model": "tokenizer"}, "a tokenizer alone is no world"),
        ({"model": "dynamics"}, "a dynamics world needs --tokenizer FILE"),
        ({"model": "dynamics", "tokenizer": "next"}, "next.safetensors: holds a next_frame, not"),
        ({"model": "dynamics", "tokenizer": "none"}, "a dynamics world needs --tokenizer FILE"),
        ({"model": "next", "tokenizer": "dynamics"}, "holds a dynamics, not the tokenizer"),
        ({"model": "next", "lam": "tokenizer"}, "a next_frame world takes no --lam"),
        ({"model": "next", "steps": 4}, "has no option 'steps'; it has none"),
        (
            {"model": "dynamics", "tokenizer": "tokenizer", "speed": 4},
            "has no option 'speed'; it has steps, temperature, seed",
        ),
    ],
)
def test_what_does_not_go_together_is_said(files, arguments, complaint):
    given = {key: files.get(value, value) for key, value in arguments.items()}
    with pytest.raises(WorkshopError, match=complaint):
        open_world(**given)


def test_the_models_own_tokenizer_is_found_and_another_refused(tmp_path):
    torch.manual_seed(0)
    config = TokenizerConfig(dim=16, depth=1, latent_dim=16)
    for name in ("own", "other"):
        save_model(Tokenizer(config), "tokenizer", tmp_path / f"{name}.safetensors", {})
    note = {"tokenizer": json.dumps(tokenizer_entry(tmp_path / "own.safetensors", 512, (8, 8)))}
    model = tmp_path / "dynamics.safetensors"
    save_model(Dynamics(DynamicsConfig(dim=32, depth=1, window=2)), "dynamics", model, note)
    assert isinstance(open_world(model), TokenWorld)
    with pytest.raises(WorkshopError, match=r"other.safetensors .* is not the tokenizer that"):
        open_world(model, tokenizer=tmp_path / "other.safetensors")
    (tmp_path / "own.safetensors").rename(tmp_path / "elsewhere.safetensors")
    with pytest.raises(WorkshopError, match="needs --tokenizer FILE"):
        open_world(model)


def test_a_world_of_pixels_names_the_tokenizer_its_dreams_pass_through(files, tmp_path):
    torch.manual_seed(0)
    path, small = tmp_path / "mine.safetensors", TokenizerConfig(dim=16, depth=1, latent_dim=16)
    save_model(Tokenizer(small), "tokenizer", path, {})
    note = {"repeater": json.dumps(tokenizer_entry(path, 512, (8, 8)))}
    model = tmp_path / "next.safetensors"
    net = NextFrame(NextFrameConfig(width=16, depth=1, middle=2, cond_dim=32))
    save_model(net, "next_frame", model, note)
    frames = torch.randint(0, 256, (1, 8, 64, 64, 3), dtype=torch.uint8)

    def first(**given):
        world = open_world(model, **given)
        return world.step(world.begin(frames, torch.full((1, 7), RIGHT)), torch.tensor([RIGHT]))[0]

    plain = first(tokenizer="none")
    other = Path(files["tokenizer"])  # a world of pixels takes any
    for frame, file in ((first(), path), (first(tokenizer=other), other)):
        again = load_model(file).reconstruct(plain[:, None])[:, 0]
        assert (frame.float() - again.float()).abs().mean() < 0.5  # packed, it rounds otherwise
        assert (frame.float() - plain.float()).abs().mean() > 5
    path.unlink()
    with pytest.raises(
        WorkshopError, match=r"a next_frame world needs --tokenizer FILE \(or none\)"
    ):
        open_world(model)


def test_options_that_are_none_are_left_alone(files):
    assert isinstance(open_world(files["next"], steps=None, temperature=None), NextFrameWorld)


def test_several_worlds_share_what_each_of_them_has(files):
    given = {"steps": 3, "temperature": 0.0, "sampler": None}
    shared = share_options([files["next"], files["dynamics"]], given)
    assert shared == [{}, {"steps": 3, "temperature": 0.0}]
    with pytest.raises(WorkshopError, match=r"no option 'guidance' in any of these worlds: .*next"):
        share_options([files["next"], files["dynamics"]], {"guidance": 2.0})
    with pytest.raises(WorkshopError, match="a tokenizer alone is no world"):
        share_options([files["tokenizer"]], {})


def test_a_world_tells_how_it_dreams():
    made = Diffusion(DiffusionConfig(net=DiTConfig(dim=32, depth=1, heads=2, window=2), see=1))
    world = DiffusionWorld(made, steps=3, sampler="dpm", guidance=2.0)
    assert options_of(world) == {"steps": 3, "sampler": "dpm", "guidance": 2.0, "seed": 0}
    assert options_of(CopyWorld()) == {}


def test_the_copying_world_copies():
    world: World = CopyWorld()
    frames = torch.randint(0, 256, (2, 3, 8, 8, 3), dtype=torch.uint8)
    state = world.begin(frames, torch.zeros(2, 2, dtype=torch.int64))
    for key in range(3):
        frame, state = world.step(state, torch.full((2,), key))
        assert torch.equal(frame, frames[:, -1])

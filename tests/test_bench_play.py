"""`workshop bench play`: it measures what it says, and names what cannot be played."""

import json

import pytest

from workshop_lib.cli import main
from workshop_lib.models.dynamics import Dynamics
from workshop_lib.models.dynamics_config import DynamicsConfig
from workshop_lib.models.files import save_model
from workshop_lib.models.tokenizer import Tokenizer, TokenizerConfig


@pytest.fixture
def files(tmp_path):
    """A small tokenizer and its dynamics, whose window is long enough to tell the cache."""
    config = DynamicsConfig(dim=64, depth=2, heads=2, window=16)
    tokenizer = Tokenizer(TokenizerConfig(dim=8, depth=1, latent_dim=8))
    save_model(tokenizer, "tokenizer", tmp_path / "tokenizer.safetensors", {})
    save_model(Dynamics(config), "dynamics", tmp_path / "dynamics.safetensors", {})
    return tmp_path


def test_it_tells_what_the_cache_saves(files, capsys):
    done = main(
        [
            *("bench", "play", "--frames", "5", "--out", str(files / "speed.json")),
            *("--temperature", "0.5"),
            *("--dynamics", str(files / "dynamics.safetensors")),
            *("--tokenizer", str(files / "tokenizer.safetensors")),
        ]
    )
    assert done == 0
    figures = json.loads((files / "speed.json").read_text())
    assert figures["without"]["cpu"] > 1.5 * figures["with the cache"]["cpu"]
    assert figures["decoding alone"]["cpu"] < figures["with the cache"]["cpu"]
    assert figures["options"] == {"steps": 4, "temperature": 0.5, "seed": 0}
    shown = capsys.readouterr().out
    assert "16 frames, 4 steps of unmasking" in shown and "frames/s" in shown


def test_a_tokenizer_in_the_place_of_the_dynamics_is_named(files, capsys):
    path = str(files / "tokenizer.safetensors")
    assert main(["bench", "play", "--dynamics", path, "--tokenizer", path]) == 1
    assert "is a Tokenizer, not a Dynamics" in capsys.readouterr().err


def test_options_of_another_kind_of_world_are_named(files, capsys):
    given = [f"--{name}={files / name}.safetensors" for name in ("dynamics", "tokenizer")]
    assert main(["bench", "play", *given, "--guidance", "2"]) == 1
    assert "a dynamics world has no option 'guidance'; it has steps" in capsys.readouterr().err

"""`workshop bench` of diffusion worlds: what the cache saves, and that it is the same world."""

import json

import pytest
import torch

from workshop_lib.bench_diffusion import plain, uncached_step
from workshop_lib.cli import main
from workshop_lib.data.clip import Clip
from workshop_lib.models.diffusion import Diffusion
from workshop_lib.models.diffusion_config import DiffusionConfig
from workshop_lib.models.files import save_model
from workshop_lib.nn.dit import DiTConfig
from workshop_lib.worlds.diffusion_world import DiffusionWorld


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = DiTConfig(dim=64, depth=2, heads=2, window=16)
    made = Diffusion(DiffusionConfig(net=net, see=1, displacement=True))
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return made


def test_bench_play_tells_what_the_cache_saves(model, tmp_path, capsys):
    save_model(model, "diffusion", tmp_path / "a.safetensors", {})
    arguments = ["--dynamics", str(tmp_path / "a.safetensors"), "--frames", "5"]
    out = str(tmp_path / "speed.json")
    assert main(["bench", "play", *arguments, "--out", out]) == 0
    figures = json.loads((tmp_path / "speed.json").read_text())
    assert figures["without"]["cpu"] > 2 * figures["with the cache"]["cpu"]
    assert "16 frames, 4 steps of ddim" in capsys.readouterr().out


def test_without_the_cache_it_is_the_same_world(model):
    world = DiffusionWorld(model)
    frames = torch.randint(256, (2, 9, 64, 64, 3), dtype=torch.uint8)
    state, action = world.begin(frames, torch.randint(15, (2, 8))), torch.tensor([7, 1])
    cached = world.step(state, action)[0]
    assert (cached.int() - uncached_step(world, state, action).int()).abs().max() <= 1


def test_plain_layers_compute_the_same(model):
    clip = Clip(
        torch.randint(256, (2, 4, 64, 64, 3), dtype=torch.uint8),
        torch.randint(15, (2, 4)),
        torch.zeros(2, 4, dtype=torch.bool),
    )
    model.eval()
    assert torch.allclose(plain(model).loss(clip)[0], model.loss(clip)[0], rtol=1e-4)


def test_bench_train_refuses_other_models(capsys):
    assert main(["bench", "train", "--model", "tokenizer/tiny"]) == 1
    assert "is a Tokenizer, not a Diffusion" in capsys.readouterr().err


def test_bench_train_measures_both_ways(tmp_path):
    out = tmp_path / "speed.json"
    arguments = ["--model", "diffusion/oasis-5m", "--length", "4", "--steps", "1"]
    assert main(["bench", "train", *arguments, "--out", str(out)]) == 0
    assert set(json.loads(out.read_text())) == {"ours", "plain layers"}

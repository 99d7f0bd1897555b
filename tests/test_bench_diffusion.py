"""`workshop bench` of diffusion worlds: what the cache saves, and that it is the same world."""

import json

import pytest
import torch

from tests.shaking import shaken_weights
from workshop_lib.bench_diffusion import plain, uncached_step
from workshop_lib.bench_frame_by_frame import frame_by_frame
from workshop_lib.cli import main
from workshop_lib.data.clip import Clip
from workshop_lib.models.diffusion import Diffusion
from workshop_lib.models.diffusion_config import DiffusionConfig
from workshop_lib.models.files import save_model
from workshop_lib.models.next_frame import NextFrameConfig
from workshop_lib.nn.dit import DiTConfig
from workshop_lib.nn.oasis import OasisConfig
from workshop_lib.worlds.diffusion_world import DiffusionWorld


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    net = DiTConfig(dim=64, depth=2, heads=2, window=16)
    return shaken_weights(Diffusion(DiffusionConfig(net=net, see=1)), 0.05)


def test_bench_play_tells_what_the_cache_saves(model, tmp_path, capsys):
    save_model(model, "diffusion", tmp_path / "a.safetensors", {})
    arguments = ["--dynamics", str(tmp_path / "a.safetensors"), "--frames", "5"]
    out = str(tmp_path / "speed.json")
    assert main(["bench", "play", *arguments, "--out", out]) == 0
    figures = json.loads((tmp_path / "speed.json").read_text())
    assert figures["without"]["cpu"] > figures["with the cache"]["cpu"]
    assert "16 frames, 4 steps of ddim" in capsys.readouterr().out
    assert main(["bench", "play", *arguments, "--sampler=dpm", "--guidance=2", "--out", out]) == 0
    guided = json.loads((tmp_path / "speed.json").read_text())
    assert guided["options"] == {"steps": 4, "sampler": "dpm", "guidance": 2.0, "seed": 0}
    assert "4 steps of dpm, guidance 2" in capsys.readouterr().out


@pytest.mark.parametrize("mean", [None, NextFrameConfig(width=8)])
def test_without_the_cache_it_is_the_same_world(mean):
    torch.manual_seed(0)
    net = DiTConfig(dim=64, depth=2, heads=2, window=16)
    world = DiffusionWorld(
        shaken_weights(Diffusion(DiffusionConfig(net=net, mean=mean, see=1)), 0.05)
    )
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


@pytest.mark.parametrize(
    ("kind", "training"),
    [(OasisConfig, "independent"), (DiTConfig, "independent"), (DiTConfig, "drafts")],
)
@pytest.mark.parametrize("window", [3, 8])
def test_frame_by_frame_learns_the_same(kind, training, window):
    """The loop over frames has the loss and the gradients of whole clips, also where the clip is
    longer than the window."""
    torch.manual_seed(0)
    net = kind(dim=32, depth=2, heads=2, window=window)
    whole = Diffusion(DiffusionConfig(net=net, training=training))
    shaken_weights(whole, 0.05)
    clip = Clip(
        torch.randint(256, (2, 6, 64, 64, 3), dtype=torch.uint8),
        torch.randint(15, (2, 6)),
        torch.zeros(2, 6, dtype=torch.bool),
    )
    looped, losses = frame_by_frame(whole), []
    for model in (whole, looped):
        torch.manual_seed(1)
        losses.append(model.train().loss(clip)[0])
        losses[-1].backward()
    assert torch.allclose(losses[0], losses[1], rtol=1e-5)
    pairs = list(zip(whole.parameters(), looped.parameters(), strict=True))
    assert any(p.grad is not None and p.grad.any() for p, _ in pairs)
    for one, other in pairs:
        if one.grad is None:
            assert other.grad is None
        else:
            assert (one.grad - other.grad).norm() < 1e-4 * one.grad.norm() + 1e-8


def test_bench_train_refuses_other_models(capsys):
    assert main(["bench", "train", "--model", "tokenizer/tiny"]) == 1
    assert "is a Tokenizer, not a Diffusion" in capsys.readouterr().err


def test_bench_train_measures_both_ways(tmp_path):
    out = tmp_path / "speed.json"
    arguments = ["--model", "diffusion/oasis-5m", "--length", "4", "--steps", "1"]
    assert main(["bench", "train", *arguments, "--out", str(out)]) == 0
    assert set(json.loads(out.read_text())) == {"ours", "plain layers", "frame by frame"}

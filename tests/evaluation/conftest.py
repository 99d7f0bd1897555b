"""Moments of the real game, collected once for all tests here."""

import pytest
import torch

from workshop_lib.evaluation.starts import collect_starts
from workshop_lib.models.diffusion import Diffusion
from workshop_lib.models.diffusion_config import DiffusionConfig
from workshop_lib.models.files import save_model
from workshop_lib.models.next_frame import NextFrameConfig
from workshop_lib.nn.dit import DiTConfig


@pytest.fixture(scope="session")
def starts(procgen):
    return collect_starts(24, "easy", seed=3)


@pytest.fixture(scope="session")
def diffusion(tmp_path_factory):
    """The file of an untrained diffusion model in which every weight does something."""
    torch.manual_seed(0)
    net, mean = DiTConfig(dim=32, depth=2, heads=2, window=3), NextFrameConfig(width=8)
    made = Diffusion(DiffusionConfig(net=net, mean=mean, see=2, data_std=0.25, steps=3))
    with torch.no_grad():
        for weights in made.parameters():
            weights.add_(0.05 * torch.randn_like(weights))
    path = tmp_path_factory.mktemp("diffusion") / "diffusion.safetensors"
    save_model(made, "diffusion", path, {})
    return str(path)

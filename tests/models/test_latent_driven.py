"""Dynamics driven by latent actions: codes alone steer it, and both can learn together."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.models.scrolling import scrolling_clip
from tests.models.test_latent_action import FOUND
from workshop_lib.data.clip import Clip
from workshop_lib.errors import WorkshopError
from workshop_lib.models.dynamics import Dynamics
from workshop_lib.models.dynamics_config import DynamicsConfig
from workshop_lib.models.files import load_model, read_metadata, save_model
from workshop_lib.models.latent_action import LatentActionModel
from workshop_lib.models.latent_driven import LatentDriven, check_lam, lam_beside
from workshop_lib.training.live import from_recipe, train_live
from workshop_lib.training.optim import OptimConfig

GRAYS = 12


def make_lam() -> LatentActionModel:
    torch.manual_seed(0)
    model, _ = from_recipe("lam/tiny", **FOUND)
    assert isinstance(model, LatentActionModel)
    return model


def make_dynamics(num_codes: int, drive: str = "latent") -> Dynamics:
    torch.manual_seed(0)
    return Dynamics(
        DynamicsConfig(
            grid=(8, 8),
            num_codes=GRAYS,
            body="conv",
            dim=48,
            depth=2,
            window=3,
            num_actions=num_codes,
            drive=drive,  # type: ignore[arg-type]
            corrupt=0.0,
            masked_past=0.0,
        )
    )


def scroll(count: int, seed: int) -> Clip:
    """A scrolling world whose tokens are grays of 4x4 pixels."""
    clip = scrolling_clip(count, 8, torch.Generator().manual_seed(seed))
    gray = clip.frames.float().mean(dim=-1)
    small = F.avg_pool2d(gray, 4)
    return replace(clip, tokens=(small * GRAYS / 256).long())


def loss_under(model: LatentDriven, clip: Clip, latents: Tensor) -> float:
    with torch.no_grad():
        return model.dynamics.eval().loss(clip, latents)[0].item()


def test_both_learn_together_and_the_codes_then_steer() -> None:
    lam = make_lam()
    model = LatentDriven(make_dynamics(lam.num_codes), lam, joint=True)
    optim = OptimConfig(lr=3e-3, warmup=10, ema=0.9)
    train_live(model, [scroll(16, seed) for seed in range(8)], 200, optim=optim, show=False)
    clip = scroll(32, 100)  # other landscapes
    codes = lam.infer(clip.frames)
    told = loss_under(model, clip, codes)
    assert told < loss_under(model, clip, codes.roll(1, dims=0)) - 0.1
    hard = F.one_hot(codes, lam.num_codes).float()
    assert loss_under(model, clip, hard) == pytest.approx(told, abs=1e-5)


def test_what_the_dynamics_lacks_reaches_the_codes_only_where_both_learn() -> None:
    clip, lam = scroll(4, 0), make_lam()
    joint = LatentDriven(make_dynamics(lam.num_codes), lam, joint=True).train()
    train_live(joint, [clip], 2, show=False)  # untrained, it does not listen to codes
    joint.train().zero_grad()
    joint.dynamics.loss(clip, joint.latents(clip))[0].backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in lam.encoder.parameters())

    lam = make_lam()
    before = {name: value.clone() for name, value in lam.state_dict().items()}
    frozen = LatentDriven(make_dynamics(lam.num_codes), lam)
    train_live(frozen, [clip], 3, show=False)
    assert all(torch.equal(before[name], value) for name, value in lam.state_dict().items())


def test_parts_that_do_not_fit_are_refused() -> None:
    lam = make_lam()
    with pytest.raises(WorkshopError, match=r"need model\.drive latent, not actions"):
        LatentDriven(make_dynamics(lam.num_codes, drive="actions"), lam)
    with pytest.raises(WorkshopError, match=f"num_actions 3 must be the {lam.num_codes} codes"):
        LatentDriven(make_dynamics(3), lam)


def test_a_file_in_which_every_key_has_one_code_is_understood() -> None:
    lam, codes = make_lam(), torch.arange(15) % 3
    lam.load_state_dict(lam.state_dict() | {"keys": codes})
    assert lam.key_codes is not None
    assert torch.equal(lam.key_codes, codes.expand(lam.num_codes + 1, -1))


def test_a_dynamics_knows_its_latent_action_model(tmp_path) -> None:
    """Also in half precision, and when its keys became known; another one is refused."""
    lam = make_lam()
    driven = LatentDriven(make_dynamics(lam.num_codes), lam)
    driven.lam_file = "l.st"
    save_model(driven.dynamics, "dynamics", tmp_path / "world.safetensors", driven.note())
    metadata = read_metadata(tmp_path / "world.safetensors")
    assert lam_beside(tmp_path / "world.safetensors", metadata) is None
    lam.keys.copy_(torch.arange(15) % lam.num_codes)
    save_model(lam, "latent_action", tmp_path / "l.st", {}, dtype="float16")
    assert lam_beside(tmp_path / "world.safetensors", metadata) == tmp_path / "l.st"
    again = load_model(tmp_path / "l.st")
    assert isinstance(again, LatentActionModel)
    check_lam(metadata, again, "l.st")
    with torch.no_grad():
        again.to_cond.weight.add_(0.01)
    with pytest.raises(WorkshopError, match=r"l\.st is not the latent action model"):
        check_lam(metadata, again, "l.st")

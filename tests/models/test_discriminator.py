"""The judge of a GAN: it looks where it says it looks, and learns to tell sharp from blurred."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.conftest import SAMPLE
from workshop_lib.data.datamodule import ClipDataModule
from workshop_lib.errors import WorkshopError
from workshop_lib.models.discriminator import Discriminator, DiscriminatorConfig, hinge_loss


@pytest.fixture(scope="module")
def data() -> ClipDataModule:
    return ClipDataModule(str(SAMPLE / "easy"), length=4, batch_size=8, val_batches=1)


def blurred(video: Tensor) -> Tensor:
    """A quarter of the size and back."""
    frames = F.interpolate(F.avg_pool2d(video.flatten(0, 1), 4), scale_factor=4, mode="bilinear")
    return frames.view(video.shape)


def test_hinge_loss_by_hand() -> None:
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 1.0])
    # real: 0, 0.5 and 2 short of 1; fake: 0, 1 and 2 above -1.
    assert hinge_loss(real, fake).item() == pytest.approx(0.5 * (2.5 / 3 + 3 / 3))
    assert hinge_loss(torch.zeros(4), torch.zeros(4)).item() == 1
    assert hinge_loss(torch.full((4,), 1.5), torch.full((4,), -1.5)).item() == 0


@pytest.mark.parametrize("kind", ["frames", "clips"])
@pytest.mark.parametrize("length", [1, 3])
def test_gradient_reaches_every_weight(kind: str, length: int) -> None:
    torch.manual_seed(0)
    judge = Discriminator(DiscriminatorConfig(kind=kind, dim=8))
    video = torch.randn(2, length, 3, 32, 32, requires_grad=True)
    (judge(video) * torch.randn(2, length, 4, 4)).mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in judge.parameters())
    assert video.grad is not None
    assert (video.grad.abs().sum(dim=(2, 3, 4)) > 0).all()


def test_a_judgment_stands_for_its_patch() -> None:
    """59x59 pixels at depth 3, as the config says; every pixel of a frame counts."""
    torch.manual_seed(0)
    judge = Discriminator(DiscriminatorConfig(dim=4))
    video = torch.randn(1, 1, 3, 128, 128, requires_grad=True)
    judge(video)[0, 0, 8, 8].backward()
    assert video.grad is not None
    seen = video.grad[0, 0].abs().sum(dim=0) > 0
    rows, columns = seen.any(dim=1).nonzero().flatten(), seen.any(dim=0).nonzero().flatten()
    assert len(rows) == len(columns) == 59
    assert int(rows[-1] - rows[0]) == 58
    assert abs(float(rows.float().mean()) - (8 * 8 + 3.5)) < 8  # about the middle of its 8 pixels


def test_only_the_clip_judge_sees_motion() -> None:
    """The same frames in another order change what it says, and not what the frame judge says."""
    torch.manual_seed(0)
    video = torch.randn(1, 4, 3, 32, 32)
    backward = video.flip(1)
    for kind, same in (("frames", True), ("clips", False)):
        judge = Discriminator(DiscriminatorConfig(kind=kind, dim=8)).eval()
        again = judge(backward).flip(1)
        assert torch.allclose(judge(video), again, atol=1e-5) is same


@pytest.mark.parametrize("kind", ["frames", "clips"])
def test_weights_stay_tame(kind: str) -> None:
    """However large its weights grow, no convolution's matrix stretches anything further than 1."""
    torch.manual_seed(0)
    judge = Discriminator(DiscriminatorConfig(kind=kind, dim=8))
    with torch.no_grad():
        for weight in judge.parameters():
            weight.mul_(100)
    for _ in range(20):
        judge(torch.randn(1, 2, 3, 32, 32))
    convs = [m for m in judge.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Conv3d)]
    assert len(convs) == 2 + 3 * 3
    for conv in convs:
        stretch = torch.linalg.matrix_norm(conv.weight.detach().flatten(1), ord=2)
        assert stretch.item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("kind", ["frames", "clips"])
def test_learns_to_tell_real_from_blurred(kind: str, data: ClipDataModule) -> None:
    """In 80 steps on 32 real frames; judged on frames of other levels."""
    torch.manual_seed(0)
    judge = Discriminator(DiscriminatorConfig(kind=kind, dim=8, depth=2))
    optimizer = torch.optim.AdamW(judge.parameters(), lr=1e-3, betas=(0.5, 0.9))
    video = next(iter(data.train_dataloader())).video[..., 16:48, 16:48]
    losses = []
    for _ in range(80):
        chosen = video[torch.randperm(8)[:2]]
        real, fake = judge(torch.cat([chosen, blurred(chosen)])).chunk(2)
        loss = hinge_loss(real, fake)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[:5]) / 5 > 0.95  # it began knowing nothing
    assert sum(losses[-20:]) / 20 < 0.85

    other = next(iter(data.val_dataloader())).video[..., 16:48, 16:48]
    judge.eval()
    with torch.no_grad():
        real, fake = judge(other), judge(blurred(other))
    assert (real > fake).float().mean() > 0.8


def test_bad_values_are_refused() -> None:
    for key in ("dim", "depth"):
        with pytest.raises(WorkshopError, match=rf"gan\.discriminator\.{key}"):
            DiscriminatorConfig(**{key: 0})
    with pytest.raises(WorkshopError, match="must divide by 8"):
        Discriminator(DiscriminatorConfig(dim=4))(torch.zeros(1, 1, 3, 20, 20))

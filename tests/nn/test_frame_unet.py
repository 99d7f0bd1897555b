"""The network behind the next-frame world: it moves what it saw, and learns where to."""

import pytest
import torch
import torch.nn.functional as F

from tests.shaking import shaken_weights
from workshop_lib.errors import WorkshopError
from workshop_lib.nn.frame_unet import FrameUNet, FrameUNetConfig, displace

SMALL = dict(frames=2, width=16, depth=1, middle=2, cond_dim=16)


def make(**changes):
    torch.manual_seed(0)
    return FrameUNet(FrameUNetConfig(**{**SMALL, **changes}))


def scrolled(count, steps, size=32):
    """Smooth random pictures, and each again moved by `steps` pixels (B, 2), right and down."""
    world = F.interpolate(torch.rand(count, 3, 18, 18) * 2 - 1, scale_factor=4, mode="bilinear")
    margin = (world.shape[-1] - size) // 2
    rows = margin + torch.arange(size)
    pictures = [world[:, :, rows][..., rows]]
    moved = [
        picture[:, rows - int(down)][..., rows - int(right)]
        for picture, (right, down) in zip(world, steps, strict=True)
    ]
    return [*pictures, torch.stack(moved)]


@pytest.mark.parametrize("size", [(64, 64), (84, 84), (30, 46)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_untrained_it_repeats_the_last_frame_of_any_size(size, channels):
    net = make(channels=channels)
    video = torch.rand(2, 2, channels, *size) * 2 - 1
    frame, displacement = net.parts(video, torch.randn(2, 16))
    assert (frame - video[:, -1]).abs().max() < 1e-4
    assert displacement.shape == (2, 2, *size) and not displacement.any()


def test_displacing_moves_right_and_down():
    steps = torch.tensor([[3, 0], [0, 2], [-4, 1]])
    before, after = scrolled(3, steps)
    moved = displace(before, steps[..., None, None].float().expand(-1, -1, 32, 32))
    inside = (..., slice(4, -4), slice(4, -4))
    assert (moved[inside] - after[inside]).abs().max() < 1e-5
    # beyond the edge is the edge's color
    assert torch.allclose(moved[0, :, :, :3], before[0, :, :, :1].expand(-1, -1, 3), atol=1e-5)


def test_half_a_pixel_is_between_two():
    frame = torch.rand(1, 3, 8, 8)
    moved = displace(frame, torch.tensor([0.5, 0.0]).view(1, 2, 1, 1).expand(-1, -1, 8, 8))
    assert torch.allclose(moved[..., 1:], (frame[..., 1:] + frame[..., :-1]) / 2, atol=1e-5)


def test_it_learns_which_way_the_condition_moves_the_picture():
    net = make().train()
    codes = torch.randn(4, 16)
    ways = torch.tensor([[2, 0], [-2, 0], [0, 2], [0, -2]])
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(200):
        way = torch.randint(0, 4, (16,))
        before, after = scrolled(16, ways[way])
        loss = F.mse_loss(net(torch.stack([before, before], dim=1), codes[way]), after)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    before, after = scrolled(4, ways)
    frame, displacement = net.parts(torch.stack([before, before], dim=1), codes)
    assert F.mse_loss(frame, after) < 0.2 * F.mse_loss(before, after)
    # and what it does is to move: the displacement is the one that made the picture
    found = displacement[..., 8:-8, 8:-8].mean(dim=(2, 3))
    assert (found - ways).abs().max() < 0.7


def test_frames_of_a_batch_do_not_mix():
    net = make()
    shaken_weights(net, 0.05)
    video, cond = torch.rand(3, 2, 3, 32, 32), torch.randn(3, 16)
    alone = torch.cat([net(video[i : i + 1], cond[i : i + 1]) for i in range(3)])
    assert (net(video, cond) - alone).abs().max() < 1e-4


@pytest.mark.parametrize("displacement", [True, False])
def test_gradients_reach_every_parameter(displacement):
    net = make(displacement=displacement)
    with torch.no_grad():  # what starts at zero would hide what lies before it
        for p in net.parameters():
            p.add_(0.02 * torch.randn_like(p))
    net(torch.rand(2, 2, 3, 32, 32), torch.randn(2, 16)).square().mean().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_without_displacement_it_only_adds():
    net = make(displacement=False)
    with torch.no_grad():
        net.head.bias.fill_(0.25)
    video = torch.rand(1, 2, 3, 16, 16)
    frame, displacement = net.parts(video, torch.randn(1, 16))
    assert torch.allclose(frame, video[:, -1] + 0.25) and not displacement.any()


def test_what_does_not_fit_is_refused():
    with pytest.raises(WorkshopError, match="2, 3, H, W"):
        make()(torch.zeros(1, 4, 3, 32, 32), torch.zeros(1, 16))
    for wrong in ({"width": 20}, {"width": 0}, {"frames": 0}, {"middle": 0}, {"patch": 0}):
        with pytest.raises(WorkshopError, match=f"model.{next(iter(wrong))}"):
            FrameUNetConfig(**{**SMALL, **wrong})

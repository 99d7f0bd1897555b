"""Packed layers: the same numbers, in a copy."""

import pytest
import torch
from torch import nn

from workshop_lib.nn.conv import CausalConv, ResidualBlock
from workshop_lib.nn.linear import Linear
from workshop_lib.nn.packed import SHAPES, PackedConv, PackedLinear, packed, packing_works


@pytest.mark.skipif(not packing_works(), reason="this PyTorch was built without oneDNN")
def test_linear_layers_and_convolutions_are_packed():
    model = packed(nn.Sequential(Linear(8, 8), nn.Sequential(nn.Conv2d(3, 4, 3))))
    assert isinstance(model[0], PackedLinear) and isinstance(model[1][0], PackedConv)


@pytest.mark.parametrize("rows", [1, 64, 65, 300])
@pytest.mark.parametrize("bias", [True, False])
@torch.inference_mode()
def test_a_packed_model_computes_the_same(rows, bias):
    torch.manual_seed(0)
    model = nn.Sequential(Linear(24, 50, bias=bias), nn.SiLU(), nn.Linear(50, 7))
    x = torch.randn(2, rows, 24)
    again = packed(model)
    torch.testing.assert_close(again(x), model(x), atol=1e-5, rtol=1e-4)
    half = x.transpose(0, 1)[:, :, :]  # not contiguous
    torch.testing.assert_close(again(half), model(half), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_packed_convolutions_compute_the_same():
    torch.manual_seed(0)
    model = nn.Sequential(
        CausalConv(3, 16, stride=2), ResidualBlock(16, 24), CausalConv(24, 3, kernel=1)
    )
    again = packed(model)
    for frames in (1, 5):
        video = torch.randn(1, frames, 3, 16, 16)
        torch.testing.assert_close(again(video), model(video), atol=1e-4, rtol=1e-3)


@pytest.mark.skipif(not packing_works(), reason="this PyTorch was built without oneDNN")
@torch.inference_mode()
def test_a_packed_convolution_takes_pictures_of_many_sizes_in_turn():
    """More than it keeps its weights in order for; and at each again without ordering them anew."""
    torch.manual_seed(0)
    conv = nn.Conv2d(192, 192, 3, padding=1)
    again = PackedConv(conv)
    for side in (8, 16, 4, 8, 9, 12, 7, 16, 8):
        picture = torch.randn(1, 192, side, side)
        torch.testing.assert_close(again(picture), conv(picture), atol=1e-4, rtol=1e-3)
        assert len(again.ordered) <= SHAPES
        ordered = again.ordered[picture.shape]
        again(picture)
        assert again.ordered[picture.shape] is ordered


def test_the_model_itself_stays_as_it_was():
    model = nn.Sequential(Linear(8, 8), nn.Dropout(0.5)).train()
    again = packed(model)
    assert isinstance(model[0], Linear) and model.training and model[0].weight.requires_grad
    before = again(torch.ones(1, 8))
    with torch.no_grad():
        model[0].weight.add_(1)
    assert torch.equal(again(torch.ones(1, 8)), before)

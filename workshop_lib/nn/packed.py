"""Layers for play on a CPU: weights laid out once, the way the quickest kernels read them.

A frame in play has few rows, 64 say, so that a layer spends much of its time on its weights, and
nn/linear.py's way does not pay. But the weights stand still: oneDNN may order them beforehand,
and then uses the widest instructions of every CPU. These are the operations that torch.compile
chooses for frozen weights, without the compiler.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)

SHAPES = 4  # of input for which a convolution keeps its weights in order


class PackedLinear(nn.Module):
    """What a linear layer computes, for inference in float32 on a CPU.

    Measured on one core of an AMD EPYC, 64 rows of 320 to 1728: 0.28 ms instead of 0.67.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach())
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """float32 (..., D_in) -> (..., D_out)."""
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")


class PackedConv(nn.Module):
    """What a 2-D convolution computes, for inference in float32 on a CPU.

    Which order is best depends on the size of the picture: the weights are laid out for each one
    that comes. In another's order every call lays them out anew, which takes 30 times as long as
    the convolution (192 to 192 channels, 8x8: 9.4 instead of 0.26 ms, two cores of an AMD EPYC).
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.how: tuple[Any, ...] = conv.padding, conv.stride, conv.dilation, conv.groups
        self.weight = conv.weight.detach()
        self.bias = None if conv.bias is None else conv.bias.detach()
        self.ordered: dict[torch.Size, Tensor] = {}  # the weights, by the shape of the input

    def forward(self, x: Tensor) -> Tensor:
        """float32 (N, C, H, W) -> (N, C', H', W')."""
        weight = self.ordered.get(x.shape)
        if weight is None:
            reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
            weight = reorder(self.weight.to_mkldnn(), *self.how, list(x.shape))
            if len(self.ordered) >= SHAPES:
                self.ordered = {}
            self.ordered[x.shape] = weight
        convolve = torch.ops.mkldnn._convolution_pointwise
        return convolve(x, weight, self.bias, *self.how, "none", [], "")


def packed(model: Model) -> Model:
    """A copy of a model that computes the same on this CPU, quicker, and cannot be trained.

    Elsewhere, and where PyTorch was built without oneDNN, a mere copy.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    if all(p.device.type == "cpu" for p in model.parameters()) and packing_works():
        for module in list(model.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    setattr(module, name, PackedLinear(child))
                elif isinstance(child, nn.Conv2d) and child.padding_mode == "zeros":
                    setattr(module, name, PackedConv(child))
    return model


@cache
def packing_works() -> bool:
    """Whether this PyTorch packs weights right: the operations are its own affair."""
    linear, conv = nn.Linear(32, 32), nn.Conv2d(32, 32, 3, padding=1)
    rows, picture = torch.randn(64, 32), torch.randn(1, 32, 8, 8)
    with torch.no_grad():
        try:
            return torch.allclose(
                PackedLinear(linear)(rows), linear(rows), atol=1e-4
            ) and torch.allclose(PackedConv(conv)(picture), conv(picture), atol=1e-4)
        except (AttributeError, RuntimeError, TypeError):
            return False

"""The linear layer that runs as a convolution is a linear layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from workshop_lib.nn.linear import LEAST, Linear


@pytest.mark.parametrize("shape", [(3, 5), (LEAST, 5), (4, 2, LEAST // 4, 5), (LEAST + 1, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_it_computes_what_a_linear_layer_does(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    ours, plain = Linear(5, 7, bias=bias), nn.Linear(5, 7, bias=bias)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(shape)
    here, there = x.clone().requires_grad_(), x.clone().requires_grad_()
    weight = torch.randn(*shape[:-1], 7)
    (ours(here) * weight).sum().backward()
    (plain(there) * weight).sum().backward()
    torch.testing.assert_close(ours(x), plain(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(here.grad, there.grad, atol=1e-5, rtol=1e-5)
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-3, rtol=1e-4)


def test_views_that_are_not_contiguous_are_taken_too() -> None:
    torch.manual_seed(0)
    layer = Linear(6, 3)
    x = torch.randn(8, 6, LEAST).transpose(1, 2)
    torch.testing.assert_close(layer(x), nn.functional.linear(x, layer.weight, layer.bias))

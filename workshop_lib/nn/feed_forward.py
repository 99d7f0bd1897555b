"""The part of a transformer block that looks nowhere: each token by itself."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib.nn.linear import Linear


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020, "GLU variants improve transformer", equation 6).

    At the default hidden width of 8/3 D it has the parameters and, measured on a CPU, the speed
    of the usual GELU layer of 4 D, and learns better in that paper's comparison.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.to_hidden = Linear(dim, 2 * hidden)
        self.to_out = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        gate, hidden = self.to_hidden(x).chunk(2, dim=-1)
        return self.to_out(F.silu(gate) * hidden)

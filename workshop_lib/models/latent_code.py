"""From what an encoder says of a transition to one of a few codes: the latent action.

With so narrow a bottleneck nothing is learned if it begins with the real thing: at first the codes
mean nothing, so the decoder learns to ignore them, so the encoder never hears what would help. Two
measures, both against collapse:

- Each channel has mean 0 and variance 1 over the batch (a batch norm without weights), so that
  codes cannot all become one.
- In training a share of the transitions is not quantized. They get noise instead, of about the
  size of the quantizer's steps: no more information passes, but the gradient is the true one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib.nn.codebook import VQConfig
from workshop_lib.nn.quantizers import FSQ, FSQConfig, make_quantizer

VQ_NOISE = 0.5  # standard deviation, where channels have 1
MOMENTUM = 0.05  # of the running mean and variance
FLOOR = 1e-5  # of the variance


class Coded(NamedTuple):
    """Transitions (B, n) as codes.

    vectors: float32 (B, n, d), what the decoder gets. codes: int64 (B, n), 0 to K - 1.
    log_soft: float32 (B, n, K), logarithms of how near each code is, exp of which sums to 1.
    loss: the quantizer's. logs: its scalars.
    """

    vectors: Tensor
    codes: Tensor
    log_soft: Tensor
    loss: Tensor
    logs: dict[str, Tensor]


class ActionCode(nn.Module):
    """What an encoder says, float (B, n, d), to codes (`Coded`); d is `dim`.

    Args:
        quantizer: VQ or FSQ, and its codes.
        soft: share of transitions that get noise instead of being quantized, in training.
        spread: whether channels are normalized over the batch.
        temperature: of the soft assignment, softmax(-|u - code|^2 / temperature).
    """

    mean: Tensor
    variance: Tensor

    def __init__(
        self,
        quantizer: VQConfig | FSQConfig,
        soft: float = 0.5,
        spread: bool = True,
        temperature: float = 0.25,
        soft_steps: int = 0,
    ) -> None:
        super().__init__()
        is_vq = isinstance(quantizer, VQConfig)
        self.dim: int = quantizer.code_dim if is_vq else len(quantizer.levels)
        self.quantizer = make_quantizer(quantizer, self.dim)
        self.soft, self.spread, self.temperature = soft, spread, temperature
        self.soft_steps = soft_steps
        self.register_buffer('steps', torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(self.dim))
        self.register_buffer("variance", torch.ones(self.dim))

    @property
    def num_codes(self) -> int:
        """K."""
        return self.quantizer.num_codes

    def forward(self, z: Tensor) -> Coded:
        """Running means move in training with gradients on, as a codebook's do."""
        with torch.autocast(z.device.type, enabled=False):
            u = self._spread(z.float())
            quantized = self.quantizer(u)
            vectors = quantized.vectors
            if self.training and torch.is_grad_enabled():
                vectors = self._softened(u, vectors)
                self.steps += 1
            log_soft = self._log_soft(u)
        return Coded(vectors, quantized.tokens, log_soft, quantized.loss, quantized.logs)

    def decode(self, codes: Tensor) -> Tensor:
        """int64 (...), 0 to K - 1, to what the decoder gets, float32 (..., d).

        Raises WorkshopError for codes out of range.
        """
        return self.quantizer.decode(codes)

    def _spread(self, z: Tensor) -> Tensor:
        if not self.spread:
            return z
        learns = self.training and torch.is_grad_enabled() and z[..., 0].numel() > 1
        u = F.batch_norm(z.flatten(0, -2), self.mean, self.variance, None, None, learns,
                         MOMENTUM, FLOOR)  # fmt: skip
        return u.view_as(z)

    def _softened(self, u: Tensor, vectors: Tensor) -> Tensor:
        fsq = isinstance(self.quantizer, FSQ)
        smooth = u.tanh() if fsq else u
        # Rounding to one of L levels moves a value by up to 1 / L.
        noise = (2 * torch.rand_like(u) - 1) / self.quantizer.levels if fsq else (VQ_NOISE * torch.randn_like(u))
        begun = self.steps >= self.soft_steps
        chosen = (torch.rand_like(u[..., :1]) < self.soft) | ~begun
        return torch.where(chosen, smooth + noise * begun, vectors)

    def _log_soft(self, u: Tensor) -> Tensor:
        table = self.quantizer.codes(torch.arange(self.num_codes, device=u.device))  # K d
        if isinstance(self.quantizer, FSQ):
            u = u.tanh()
        distance = (u[..., None, :] - table.detach()).square().sum(dim=-1)
        return (-distance / self.temperature).log_softmax(dim=-1)

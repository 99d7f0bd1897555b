"""From what an encoder says of a transition to one of a few codes: the latent action.

A bottleneck so narrow is hard to begin with: at first the codes mean nothing, so the decoder learns
to ignore them, so the encoder never hears what would help. Three measures, all against collapse:

- Each channel has mean 0 and variance 1 over the batch (a batch norm without weights), so that it
  cannot fall silent.
- For the first steps nothing is quantized: a few channels of real numbers pass, and the gradient
  is strong enough to find out what is worth saying.
- From then on a share of the transitions gets noise instead of being quantized, of about the size
  of the quantizer's steps: no more information passes, but the gradient is the true one.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib.nn.codebook import VQConfig
from workshop_lib.nn.quantizers import FSQ, FSQConfig, make_quantizer

VQ_NOISE = 0.3  # standard deviation, where channels run from -1 to 1
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
        soft_steps: first training steps, in which nothing is quantized and there is no noise.
        spread: whether channels are normalized over the batch.
        temperature: of the soft assignment, softmax(-|u - code|^2 / temperature), where u, in
            [-1, 1], is what is quantized.
    """

    mean: Tensor
    variance: Tensor
    steps: Tensor

    def __init__(
        self,
        quantizer: VQConfig | FSQConfig,
        soft: float = 0.5,
        soft_steps: int = 0,
        spread: bool = True,
        temperature: float = 0.25,
    ) -> None:
        super().__init__()
        if isinstance(quantizer, VQConfig):
            self.dim = quantizer.code_dim
        else:
            self.dim = len(quantizer.levels)
        self.quantizer = make_quantizer(quantizer, self.dim)
        self.soft, self.soft_steps = soft, soft_steps
        self.spread, self.temperature = spread, temperature
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # trained so far
        self.register_buffer("mean", torch.zeros(self.dim))
        self.register_buffer("variance", torch.ones(self.dim))

    @property
    def num_codes(self) -> int:
        """K."""
        return self.quantizer.num_codes

    @property
    def begun(self) -> Tensor:
        """bool (): whether the soft steps are over. A tensor: an `if` would make a GPU wait."""
        return self.steps >= self.soft_steps

    def forward(self, z: Tensor) -> Coded:
        """Running means move in training with gradients on, as a codebook's do."""
        with torch.autocast(z.device.type, enabled=False):
            u = self._spread(z.float())
            smooth = u.tanh()
            quantized = self.quantizer(u if isinstance(self.quantizer, FSQ) else smooth)
            vectors = quantized.vectors
            if self.training and torch.is_grad_enabled():
                vectors = self._softened(smooth, vectors)
                self.steps += 1
            log_soft = self._log_soft(smooth)
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
        """What the decoder gets in training: not all of it quantized."""
        if isinstance(self.quantizer, FSQ):
            # Rounding to one of L levels moves a value by up to 1 / L.
            noise = (2 * torch.rand_like(u) - 1) / self.quantizer.levels
        else:
            noise = VQ_NOISE * torch.randn_like(u)
        unquantized = (torch.rand_like(u[..., :1]) < self.soft) | ~self.begun
        return torch.where(unquantized, u + noise * self.begun, vectors)

    def _log_soft(self, u: Tensor) -> Tensor:
        table = self.quantizer.codes(torch.arange(self.num_codes, device=u.device))  # K d
        distance = (u[..., None, :] - table.detach()).square().sum(dim=-1)
        return (-distance / self.temperature).log_softmax(dim=-1)

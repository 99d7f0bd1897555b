"""Vectors to tokens and back: VQ, FSQ and LFQ behind one interface.

    quantizer = make_quantizer(FSQConfig(levels=(8, 8, 8)), dim=64)
    vectors, tokens, loss, logs = quantizer(z)     # z (..., dim), tokens (...)
    quantizer.decode(tokens)                       # the same vectors again

Below, u is a vector in code space (z after `project_in`) and q the code chosen for it. Choosing
has no gradient, so q passes the decoder's gradient straight through to u. All of it runs in
float32, also under autocast: bfloat16 cannot tell neighboring codes apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib.errors import WorkshopError
from workshop_lib.nn.codebook import (
    MOST_CODES,
    Codebook,
    VQConfig,
    count_tokens,
    perplexity,
    require,
)


@dataclass(frozen=True)
class FSQConfig:
    """Finite scalar quantization (Mentzer et al. 2023): each channel takes one of a few levels.

    levels: number of levels of each channel, 2 or more; (8, 8, 8) makes 512 codes.
    """

    levels: tuple[int, ...] = (8, 8, 8)
    kind: Literal["fsq"] = "fsq"

    def __post_init__(self) -> None:
        good = min(self.levels, default=0) >= 2 and math.prod(self.levels) <= MOST_CODES
        require(good, "levels", self.levels, "numbers from 2 up with a product up to 2**20")


@dataclass(frozen=True)
class LFQConfig:
    """Lookup-free quantization (MAGVIT-2, Yu et al. 2023): the sign of each of a few channels.

    bits: number of channels; 2**bits codes.
    entropy: weight of the entropy loss. diversity: weight, inside it, of the batch's entropy.
    temperature: where the soft sign is undecided; it is 0.98 sure at u = temperature.
    commitment: weight of the pull of vectors to their codes.

    The weights suit a mean squared error of video in [-1, 1]. With diversity 1, or with a much
    lower temperature, a batch that has collapsed to few codes stays there.
    """

    bits: int = 9
    entropy: float = 0.005
    diversity: float = 2.0
    temperature: float = 0.5
    commitment: float = 0.02
    kind: Literal["lfq"] = "lfq"

    def __post_init__(self) -> None:
        require(1 <= self.bits <= 20, "bits", self.bits, "1 to 20")
        require(self.temperature > 0, "temperature", self.temperature, "positive")


QuantizerConfig = VQConfig | FSQConfig | LFQConfig


class Quantized(NamedTuple):
    """What a quantizer returns.

    vectors: float32 (..., D), with gradients to the input. tokens: int64 (...), 0 to K - 1.
    loss: scalar to add to the model's loss. logs: scalars without gradients, for this batch.
    """

    vectors: Tensor
    tokens: Tensor
    loss: Tensor
    logs: dict[str, Tensor]


class Quantizer(nn.Module):
    """What VQ, FSQ and LFQ share: the way into code space and out of it.

    A kind of quantizer adds `quantize(u)` and `codes(tokens)`.
    """

    def __init__(self, dim: int, code_dim: int, num_codes: int) -> None:
        super().__init__()
        self.num_codes = num_codes
        same = dim == code_dim
        self.project_in = nn.Identity() if same else nn.Linear(dim, code_dim)
        self.project_out = nn.Identity() if same else nn.Linear(code_dim, dim)

    def forward(self, z: Tensor) -> Quantized:
        """float (..., D) to vectors, tokens, loss and logs (`Quantized`).

        A codebook learns only in training mode with gradients on, so a second pass under
        no_grad (the discriminator's step of a GAN, say) does not count twice.
        """
        with torch.autocast(z.device.type, enabled=False):
            q, tokens, loss, logs = self.quantize(self.project_in(z.float()))
            vectors = self.project_out(q)
        counts = count_tokens(tokens, self.num_codes)
        logs["perplexity"] = perplexity(counts)
        logs["usage"] = (counts > 0).float().mean()
        return Quantized(vectors, tokens, loss, logs)

    def decode(self, tokens: Tensor) -> Tensor:
        """int64 (...), 0 to K - 1, to the vectors of the forward pass, float32 (..., D).

        In training the running means move after each forward pass, and decode moves with them.
        Raises WorkshopError for tokens out of range, the mask token of MaskGIT for one (on the
        CPU; a GPU would have to wait for the answer).
        """
        last = self.num_codes - 1
        if tokens.device.type == "cpu" and (tokens.min() < 0 or tokens.max() > last):
            raise WorkshopError(
                f"tokens run from {int(tokens.min())} to {int(tokens.max())}, but codes from 0 to "
                f"{last}: replace mask tokens before decode"
            )
        with torch.autocast(tokens.device.type, enabled=False):
            return self.project_out(self.codes(tokens))

    def quantize(self, u: Tensor) -> Quantized:
        """float32 (..., code_dim) to its code in place of vectors, tokens, loss, logs."""
        raise NotImplementedError

    def codes(self, tokens: Tensor) -> Tensor:
        """int64 (...) to the codes, float32 (..., code_dim)."""
        raise NotImplementedError


class VQ(Quantizer):
    """Vector quantization; see VQConfig.

    loss = commitment |u - sg(q)|^2, and for a codebook without running means + |sg(u) - q|^2
    (equation 3 of van den Oord et al. 2017; sg stops the gradient; squares as means).
    """

    def __init__(self, config: VQConfig, dim: int) -> None:
        super().__init__(dim, config.code_dim, config.num_codes)
        self.config = config
        self.codebook = Codebook(config)

    def quantize(self, u: Tensor) -> Quantized:
        if self.config.cosine:
            u = F.normalize(u, dim=-1)
        flat = u.detach().flatten(0, -2)
        learns = self.training and torch.is_grad_enabled()
        if learns:
            self.codebook.restart_idle(flat)
        chosen = self.codebook.nearest(flat)
        tokens = chosen.view(u.shape[:-1])
        q = self.codes(tokens)
        commitment = F.mse_loss(u, q.detach())
        loss = self.config.commitment * commitment
        if not self.config.ema:
            loss = loss + F.mse_loss(q, u.detach())
        if learns:
            self.codebook.follow(flat, chosen)
        return Quantized(straight_through(q, u), tokens, loss, {"commitment": commitment.detach()})

    def codes(self, tokens: Tensor) -> Tensor:
        return F.embedding(tokens, self.codebook.codes())


class FSQ(Quantizer):
    """Finite scalar quantization; see FSQConfig. No codebook to learn and no loss.

    tanh(u) lies between -1 and 1; cut that into L equal pieces, and q is the middle of its piece:
    digit l = floor(L (tanh(u) + 1) / 2), q = (2 l + 1) / L - 1. Odd and even L need no different
    treatment. Mentzer et al. round L / 2 tanh(u), which halves the two outer pieces, and for even
    L shift it by half a level, which leaves it lopsided (and fails for L = 2). Equal pieces used
    more of the codes: 87 % against 80 %, at .4 dB more, in a small tokenizer of easy CoinRun.
    Digits count from the first channel: token = l_0 + L_0 (l_1 + L_1 (l_2 + ...)).
    """

    levels: Tensor
    place: Tensor

    def __init__(self, config: FSQConfig, dim: int) -> None:
        super().__init__(dim, len(config.levels), math.prod(config.levels))
        levels = torch.tensor(config.levels)
        place = torch.tensor([math.prod(config.levels[:i]) for i in range(len(levels))])
        self.register_buffer("levels", levels, persistent=False)
        self.register_buffer("place", place, persistent=False)

    def quantize(self, u: Tensor) -> Quantized:
        bounded = u.tanh()
        digits = (self.levels * (bounded + 1) / 2).long().minimum(self.levels - 1)  # tanh may be 1
        tokens = (digits * self.place).sum(dim=-1)
        q = straight_through(self._values(digits), bounded)
        return Quantized(q, tokens, u.new_zeros(()), {})

    def codes(self, tokens: Tensor) -> Tensor:
        return self._values(tokens[..., None] // self.place % self.levels)

    def _values(self, digits: Tensor) -> Tensor:
        return (2 * digits + 1) / self.levels - 1


class LFQ(Quantizer):
    """Lookup-free quantization; see LFQConfig. Bit i of the token is the sign of channel i.

    loss = entropy (mean H(p(q|u)) - diversity H(mean p(q|u))) + commitment |u - q|^2
    (equation 5 of Yu et al. 2023): each vector should be sure of its code, and the batch should
    use all codes. With diversity 1 the bracket is minus the information that the code carries
    about the vector.
    """

    place: Tensor

    def __init__(self, config: LFQConfig, dim: int) -> None:
        super().__init__(dim, config.bits, 2**config.bits)
        self.config = config
        self.register_buffer("place", 2 ** torch.arange(config.bits), persistent=False)

    def quantize(self, u: Tensor) -> Quantized:
        config = self.config
        tokens = ((u > 0) * self.place).sum(dim=-1)
        q = self.codes(tokens)
        per_vector, of_batch = code_entropies(u.flatten(0, -2), config.temperature)
        commitment = F.mse_loss(u, q)
        loss = config.entropy * (per_vector - config.diversity * of_batch)
        loss = loss + config.commitment * commitment
        logs = {"commitment": commitment, "vector_entropy": per_vector, "batch_entropy": of_batch}
        logs = {name: value.detach() for name, value in logs.items()}
        return Quantized(straight_through(q, u), tokens, loss, logs)

    def codes(self, tokens: Tensor) -> Tensor:
        return 2.0 * (tokens[..., None] // self.place % 2) - 1


def code_entropies(u: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The two entropies of LFQ's soft codes for u float (n, bits), exact, in nats.

    p(q|u) = softmax over all 2**bits codes of -|u - q|^2 / temperature. That is a product over
    the channels, P(q_i = +1) = sigmoid(4 u_i / temperature), hence both need no such softmax:
    a vector's entropy is the sum of its channels' entropies, and the batch's mean probability of
    all codes is one matrix product of the two halves of the channels, (2**(bits/2), n) by
    (n, 2**(bits/2)). Returns (mean over vectors of H(p(q|u)), H(mean over vectors of p(q|u))).
    """
    logits = 4 * u / temperature
    sure = logits.sigmoid()
    per_vector = (F.softplus(logits) - logits * sure).sum(dim=-1).mean()
    half = u.shape[1] // 2
    low, high = _products(sure[:, :half]), _products(sure[:, half:])
    mean = low.T @ high / len(u)
    # The floor keeps the gradient finite where a probability has vanished.
    of_batch = -(mean * mean.clamp_min(1e-20).log()).sum()
    return per_vector, of_batch


def _products(sure: Tensor) -> Tensor:
    """P(+1) of m independent signs (n, m) to the probability of each combination (n, 2**m)."""
    table = sure.new_ones(len(sure), 1)
    for column in sure.T[:, :, None]:
        table = torch.cat([table * (1 - column), table * column], dim=1)
    return table


def make_quantizer(config: QuantizerConfig, dim: int) -> Quantizer:
    """The quantizer that a config describes, for vectors of width dim."""
    if isinstance(config, VQConfig):
        return VQ(config, dim)
    return FSQ(config, dim) if isinstance(config, FSQConfig) else LFQ(config, dim)


def straight_through(q: Tensor, u: Tensor) -> Tensor:
    """Exactly the values of q, with the gradient of u."""
    return q.detach() + (u - u.detach())

"""A learned codebook that stays in use, and the bookkeeping of which codes are used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from workshop_lib.errors import WorkshopError

MOST_CODES = 2**20
NEVER = 2**40  # more training steps than anyone takes
FLOOR = 0.01  # share of vectors that an unused code counts with, so that it may come into use
ROWS_AT_ONCE = 8192  # the table of distances has so many rows at most, times K columns


@dataclass(frozen=True)
class VQConfig:
    """Vector quantization (van den Oord et al. 2017): the nearest of K learned codes.

    num_codes: K. code_dim: width of a code; the input is projected to it where it differs.
    cosine: codes and vectors have length 1, and nearest means the smallest angle (ViT-VQGAN,
        Yu et al. 2021).
    ema: each code is the running mean of the vectors that chose it (their appendix A.1), with
        `ema_decay` of the past kept per step; else the codes are a parameter of the optimizer.
    commitment: weight of the pull of vectors to their codes.
    data_start: at the first training step all codes become random vectors of that batch.
    reset_after: a code that no vector chose for so many training steps in a row starts anew from
        a random vector of the batch; 0 never does that.
    rate: above 0, "nearest" is the smallest squared distance - rate ln(share of vectors that choose
        the code): of two codes that say nearly the same, one takes all, and few bits are spent
        (entropy-constrained quantization, Chou et al. 1989, equation 6). Needs ema.
    """

    num_codes: int = 512
    code_dim: int = 32
    cosine: bool = False
    ema: bool = True
    ema_decay: float = 0.99
    commitment: float = 0.25
    data_start: bool = True
    reset_after: int = 50
    rate: float = 0.0
    kind: Literal["vq"] = "vq"

    def __post_init__(self) -> None:
        require(2 <= self.num_codes <= MOST_CODES, "num_codes", self.num_codes, "2 to 2**20")
        require(self.code_dim >= 1, "code_dim", self.code_dim, "1 or more")
        require(0 <= self.ema_decay < 1, "ema_decay", self.ema_decay, "in [0, 1)")
        require(self.reset_after >= 0, "reset_after", self.reset_after, "0 (never) or more")
        require(self.rate >= 0, "rate", self.rate, "0 or more")
        require(self.ema or not self.rate, "rate", self.rate, "0 without ema")


class Codebook(nn.Module):
    """K codes of width D that learn to stand for vectors, and stay in use; see VQConfig.

    A training step is `restart_idle`, `nearest`, `follow`. Where torch.distributed runs, all
    processes must take their training steps together: counts and sums are added up over them,
    and process 0 deals out the vectors for new starts, so that equal codebooks stay equal bit
    by bit.
    """

    table: Tensor
    idle: Tensor
    mass: Tensor
    total: Tensor

    def __init__(self, config: VQConfig) -> None:
        super().__init__()
        self.config = config
        table = torch.randn(config.num_codes, config.code_dim)
        if config.cosine:
            table = F.normalize(table, dim=-1)
        if config.ema:
            self.register_buffer("table", table)
            self.register_buffer("mass", torch.zeros(config.num_codes))
            self.register_buffer("total", torch.zeros_like(table))
        else:
            self.table = nn.Parameter(table)
        # Steps since a vector last chose the code. NEVER makes all codes due for a new start.
        idle = torch.full((config.num_codes,), NEVER if config.data_start else 0)
        self.register_buffer("idle", idle)

    def codes(self) -> Tensor:
        """All codes, float (K, D)."""
        # The copy keeps backward valid when a later forward pass resets rows in place.
        return F.normalize(self.table.clone(), dim=-1) if self.config.cosine else self.table

    @torch.no_grad()
    def nearest(self, vectors: Tensor) -> Tensor:
        """float (n, D) to the numbers of the nearest codes, int64 (n,)."""
        codes = self.codes()
        # |u - e|^2 = |u|^2 + 2 (|e|^2 / 2 - u.e), and |u|^2 is the same for every code.
        half_squares = codes.square().sum(dim=-1) / 2
        if self.config.rate:
            share = self.mass / self.mass.sum().clamp_min(FLOOR)
            half_squares = half_squares - self.config.rate / 2 * share.clamp_min(FLOOR).log()
        rows = vectors.split(ROWS_AT_ONCE)
        return torch.cat([torch.addmm(half_squares, r, codes.T, alpha=-1).argmin(1) for r in rows])

    @torch.no_grad()
    def restart_idle(self, vectors: Tensor) -> None:
        """Moves every code that was idle for too long onto a random one of vectors (n, D).

        Until a vector chooses it, it counts as idle: equal vectors choose one of their codes
        only, and the others try again in the next step.
        """
        count, device = len(self.idle), vectors.device
        order = torch.randperm(len(vectors), device=device)
        candidates = vectors[order[torch.arange(count, device=device) % len(vectors)]]
        if _distributed():
            dist.broadcast(candidates, src=0)
        # Without an `if`: asking a GPU whether there are any would make it wait every step.
        dead = self.idle >= (self.config.reset_after or NEVER)
        self.table.copy_(torch.where(dead[:, None], candidates, self.table))
        if self.config.ema:  # a new start has no past
            self.mass.masked_fill_(dead, 0)
            self.total.masked_fill_(dead[:, None], 0)

    @torch.no_grad()
    def follow(self, vectors: Tensor, tokens: Tensor) -> None:
        """One step of the running means, for vectors (n, D) that chose codes tokens (n,).

        With counts n_k and decay g: mass_k <- g mass_k + (1 - g) n_k, total_k likewise with the
        sum of the vectors, and code_k = total_k / mass_k. Both start at 0, so the mean is exact
        from the first step, with no correction for a made-up start.
        """
        counts = count_tokens(tokens, len(self.idle))
        if _distributed():
            dist.all_reduce(counts)
        used = counts > 0
        self.idle.copy_(torch.where(used, 0, self.idle + 1))
        if not self.config.ema:
            return
        sums = torch.zeros_like(self.total).index_add_(0, tokens, vectors)
        if _distributed():
            dist.all_reduce(sums)
        decay = self.config.ema_decay
        self.mass.mul_(decay).add_(counts, alpha=1 - decay)
        self.total.mul_(decay).add_(sums, alpha=1 - decay)
        # An unused code keeps its place: its mass and total shrink alike, in the end to 0 / 0.
        means = self.total / self.mass[:, None]
        if self.config.cosine:
            means = F.normalize(means, dim=-1)
        self.table.copy_(torch.where(used[:, None], means, self.table))


class CodebookUse:
    """Which codes a validation run used.

    `use = CodebookUse(512)`, `use.add(tokens)` for each batch, then read:
    counts, int64 (K,) on the CPU, is the histogram; share is the share of codes used at least
    once, 0 to 1; perplexity, 1 to K, is how many equally likely codes would be as varied; dead
    lists the codes that never occurred, int64.
    """

    def __init__(self, num_codes: int) -> None:
        self.counts = torch.zeros(num_codes, dtype=torch.int64)

    def add(self, tokens: Tensor) -> None:
        """Counts one batch of tokens, int64 of any shape, 0 to K - 1."""
        self.counts += count_tokens(tokens, len(self.counts)).cpu()

    @property
    def share(self) -> float:
        return (self.counts > 0).float().mean().item()

    @property
    def perplexity(self) -> float:
        return perplexity(self.counts).item()

    @property
    def dead(self) -> Tensor:
        return (self.counts == 0).nonzero().flatten()


def count_tokens(tokens: Tensor, num_codes: int) -> Tensor:
    """How often each code occurs in tokens of any shape: int64 (K,)."""
    tokens = tokens.flatten()
    counts = torch.zeros(num_codes, dtype=torch.int64, device=tokens.device)
    return counts.scatter_add_(0, tokens, torch.ones_like(tokens))


def perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of a histogram (K,): a scalar from 1 (one code) to K (all alike)."""
    share = counts / counts.sum().clamp_min(1)
    return torch.special.entr(share).sum().exp()


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def require(good: bool, key: str, value: object, rule: str) -> None:
    """Raises WorkshopError, naming the key of a quantizer's config, unless good."""
    if not good:
        raise WorkshopError(f"quantizer: {key} is {value}, but must be {rule}")

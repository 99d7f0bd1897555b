"""Vectors for the codes of a codebook, from their digits where they have any.

A token of FSQ or LFQ is a number with a digit for each channel, and codes that share a digit look
alike. So the vector of a code is one of its own plus one for each digit: a code that was seldom
seen is known from its digits.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CodeTable(nn.Module):
    """A learned vector for each of K codes.

    Args:
        num_codes: K.
        dim: D.
        factors: how many values each digit has, the first digit first; their product is K.
            Empty for codes without digits.
        std: of the vectors at the start.
        extra: rows after those of the codes, which have no digits: a mask, say.
    """

    digit_rows: Tensor

    def __init__(
        self, num_codes: int, dim: int, factors: tuple[int, ...], std: float, extra: int = 0
    ) -> None:
        super().__init__()
        own = torch.randn(num_codes + extra, dim) * std
        # The digits tell most at first; a code's own vector is what they cannot tell.
        self.own = nn.Parameter(torch.zeros_like(own) if factors else own)
        self.digits = nn.Parameter(torch.randn(sum(factors), dim) * std) if factors else None
        rows = digit_rows(num_codes, factors, extra)
        self.register_buffer("digit_rows", rows, persistent=False)

    def forward(self) -> Tensor:
        """(K + extra, D)."""
        if self.digits is None:
            return self.own
        by_digit = F.pad(self.digits, (0, 0, 0, 1))  # a row of zeros for what has no digits
        return self.own + F.embedding(self.digit_rows, by_digit).sum(dim=1)

    def fold(self) -> None:
        """Adds the digits' vectors to the codes' own, for good: quicker, but not for training."""
        self.own, self.digits = nn.Parameter(self().detach(), requires_grad=False), None


def digit_rows(num_codes: int, factors: tuple[int, ...], extra: int) -> Tensor:
    """int64 (K + extra, digits): where the vectors of a code's digits lie in a table of all
    digits' values, one digit after the other; for the extra rows, just behind its end."""
    codes = torch.arange(num_codes)
    rows = torch.full((num_codes + extra, len(factors)), sum(factors))
    for i, factor in enumerate(factors):
        digit = codes // math.prod(factors[:i]) % factor
        rows[:num_codes, i] = sum(factors[:i]) + digit
    return rows

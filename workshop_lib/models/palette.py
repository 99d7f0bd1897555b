"""Which codes belong to a dream, so that it keeps its theme.

A level is drawn in one theme: of all the codes of a tokenizer it uses a few, from its first frame
to its last. A dynamics that sees a few frames of the past cannot know them once a wall has hidden
the sky; what it then invents may be any theme's. So the dream counts the codes that it has shown,
and codes that are common in training, but not in this dream, become less likely: a cache model of
language (Kuhn and De Mori 1990, "A cache-based natural language model for speech recognition").

By Bayes' rule, p(code | past, theme) = p(code | past) p(code | theme) / p(code), up to a factor, if
past and theme tell different things of the code. They do not quite: of a theme that is in sight the
past tells everything, so no code is made more likely than the model would have it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

RATE = 0.01  # of the running mean: the last 100 batches of training count most
DREAMED = 0.3  # what a dreamed frame counts for, beside one of the prompt
USUAL = 0.3  # how much of training is mixed into a dream's own shares: what it may yet show
LEAST = 1e-9  # keeps logarithms finite


class Palette(nn.Module):
    """The share of each of K codes in training, and what a dream's own codes say against it.

    Args:
        num_codes: K.
        factors: how many values each digit has, the first digit first; empty without digits. Codes
            that differ by one in a digit look alike: what is shown counts for them, too.
        strength: 1 is Bayes' rule, 0 nothing.
    """

    shares: Tensor

    def __init__(self, num_codes: int, factors: tuple[int, ...], strength: float) -> None:
        super().__init__()
        self.factors, self.strength = factors, strength
        self.register_buffer("shares", torch.full((num_codes,), 1 / num_codes))

    @torch.no_grad()
    def learn(self, tokens: Tensor) -> None:
        """Takes a batch of training, int64 of any shape, into the shares."""
        counts = self.count(tokens.reshape(1, -1))[0]
        self.shares.lerp_((counts / counts.sum()).to(self.shares.dtype), RATE)

    def count(self, tokens: Tensor) -> Tensor:
        """How often each code is in int64 (B, ...), float (B, K)."""
        flat = tokens.flatten(1)
        counts = torch.zeros(len(flat), len(self.shares), device=flat.device)
        return counts.scatter_add(1, flat, torch.ones_like(flat, dtype=counts.dtype))

    def then(self, shown: Tensor, tokens: Tensor) -> Tensor:
        """What a dream has shown, (B, K), after one more frame, int64 (B, h, w)."""
        return shown + DREAMED * self.count(tokens)

    def against(self, shown: Tensor) -> Tensor:
        """What to add to the logits of a dream that has shown (B, K): like it, 0 or less."""
        usual = smoothed(self.shares.float()[None], self.factors) + LEAST
        own = smoothed(shown, self.factors)
        own = own / own.sum(dim=1, keepdim=True)
        ratio = (own + USUAL * usual) / ((1 + USUAL) * usual)
        return self.strength * ratio.log().clamp_max(0)


def smoothed(counts: Tensor, factors: tuple[int, ...]) -> Tensor:
    """Counts of codes float (B, K), a quarter of each given to its neighbors on either side, along
    one digit after the other. Sums stay what they are."""
    if not factors:
        return counts
    x = counts.view(-1, *reversed(factors))  # the first digit changes fastest
    for axis in range(1, x.ndim):
        ends = x.narrow(axis, 0, 1), x.narrow(axis, x.shape[axis] - 1, 1)
        wide = torch.cat([ends[0], x, ends[1]], dim=axis)
        below, above = (wide.narrow(axis, at, x.shape[axis]) for at in (0, 2))
        x = 0.25 * below + 0.5 * x + 0.25 * above
    return x.reshape(counts.shape)

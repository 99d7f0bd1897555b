"""MaskGIT's arithmetic: what is masked in training, and how a frame is unmasked in a few steps.

Chang et al. 2022, "MaskGIT", sections 3.1 and 3.2. In training, a random share of the tokens is
replaced by the mask, and the model learns to tell what was there. To generate, it begins with
nothing but masks; at each step it guesses all of them, the guesses that it is surest of stay, and
the rest are masked again. N is the number of tokens, K the number of codes and the mask's id.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from workshop_lib.errors import WorkshopError

Schedule = Literal["cosine", "linear", "arccos"]

WHOLE = 0.25  # share of training frames that are masked as a whole
SMALLEST = 1e-20  # keeps logarithms finite


def masked_share(progress: Tensor, schedule: Schedule) -> Tensor:
    """The share of tokens still masked, float, 1 at progress 0 and 0 at progress 1.

    Chang et al. 2022, section 3.3: "cosine" starts with few sure tokens and ends with many at
    once, "linear" unmasks as many at each step, "arccos" nearly so, but for many in the last one.
    """
    if schedule == "linear":
        return 1 - progress
    if schedule == "arccos":
        return torch.arccos(progress) * (2 / math.pi)
    return torch.cos(progress * (math.pi / 2))


def masked_counts(tokens: int, steps: int, schedule: Schedule) -> list[int]:
    """How many of N tokens are still masked after each of the steps; falls all the time, to 0.

    Raises WorkshopError unless there are 1 to N steps.
    """
    if not 1 <= steps <= tokens:
        raise WorkshopError(f"steps: {steps} must be 1 to {tokens}, the number of tokens")
    shares = masked_share(torch.arange(1, steps + 1, dtype=torch.float64) / steps, schedule)
    counts: list[int] = []
    for step, share in enumerate(shares.tolist()):
        most = (counts[-1] if counts else tokens) - 1
        counts.append(max(min(int(share * tokens), most), steps - 1 - step))
    return counts


def random_masks(
    frames: int, tokens: int, schedule: Schedule, full: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """bool (frames, N), True where masked, and bool (frames,), True where a whole frame is.

    Each frame's share is that of the schedule at a random moment u ~ U(0, 1); a share `full` of
    the frames, and always one, is masked as a whole, which is where generation begins.
    """
    device = generator.device
    moment = torch.rand(frames, 1, generator=generator, device=device)
    share = masked_share(moment, schedule)
    masked = torch.rand(frames, tokens, generator=generator, device=device) < share
    order = torch.rand(frames, generator=generator, device=device).argsort()
    whole = torch.zeros(frames, dtype=torch.bool, device=device)
    whole[order[: max(1, round(full * frames))]] = True
    return masked | whole[:, None], whole


def random_tokens(
    tokens: Tensor, num_codes: int, most: float, generator: torch.Generator
) -> Tensor:
    """Clips int64 (B, ...) in which 0 to `most` of the tokens, a share per clip, are random.

    The past that a model has dreamed itself is never quite right; so it learns to bear with that.
    """
    rand = torch.rand(2, *tokens.shape, generator=generator, device=tokens.device)
    share = most * rand[0].flatten(1)[:, :1].view(-1, *[1] * (tokens.ndim - 1))
    other = torch.randint(num_codes, tokens.shape, generator=generator, device=tokens.device)
    return torch.where(rand[1] < share, other, tokens)


class MaskedClip(NamedTuple):
    """What a model sees of a clip in training, and where it is asked. See `mask_clip`.

    past: int64 (B, T - 1, h, w), frames 0 to T - 2, in part random or masked.
    drafts: int64 (B, T - 1, h, w), frames 1 to T - 1, each in part or as a whole masked.
    masked: bool (B, T - 1, h, w), where the drafts are.
    whole: bool (B, T - 1), which drafts are masked as a whole.
    """

    past: Tensor
    drafts: Tensor
    masked: Tensor
    whole: Tensor


def mask_clip(
    tokens: Tensor,
    num_codes: int,
    schedule: Schedule,
    corrupt: float,
    masked_past: float,
    generator: torch.Generator,
) -> MaskedClip:
    """The tokens int64 (B, T, h, w) of clips as a task: what is under the masks of the drafts?

    The past is settled, as in play, but for a share 0 to `corrupt` of random tokens. In a share
    `masked_past` of the clips it is masked, too, as much as the schedule says.
    """
    batch, frames, h, w = tokens.shape
    masked, whole = random_masks(batch * (frames - 1), h * w, schedule, WHOLE, generator)
    masked = masked.view(batch, frames - 1, h, w)
    past = random_tokens(tokens[:, :-1], num_codes, corrupt, generator)
    rand = torch.rand(3, *past.shape, generator=generator, device=tokens.device)
    moment, chosen = rand[0, :, :1, :1, :1], rand[1, :, :1, :1, :1] < masked_past
    hidden = chosen & (rand[2] < masked_share(moment, schedule))
    return MaskedClip(
        past.masked_fill(hidden, num_codes),
        tokens[:, 1:].masked_fill(masked, num_codes),
        masked,
        whole.view(batch, frames - 1),
    )


def mean_where(values: Tensor, where: Tensor) -> Tensor:
    """The mean of some values, bool, both of one shape."""
    return (values & where).sum() / where.sum()


def unmask(
    predict: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    temperature: float,
    schedule: Schedule,
    generator: torch.Generator | None = None,
    head: Callable[[Tensor], Tensor] = torch.Tensor.float,
) -> Iterator[Tensor]:
    """Chang et al. 2022, section 3.2: yields the tokens after each step, masks among them.

    predict: tokens int64 (B, N) to logits float (B, N, K), or to what `head` turns into logits:
        it is asked for those of masked tokens alone, (B, n, ..) to (B, n, K).
    start: int64 (B, N), all of them the mask's id.
    temperature: 0 takes the likeliest code everywhere and the surest tokens first. Above, codes
        are drawn from softmax(logits / temperature), and the order of tokens is random to a
        degree that falls to none at the last step.
    generator: of the noise, on the CPU, so that one seed means the same on any device.

    Each step unmasks as many tokens as `masked_counts` says; what is unmasked stays.
    """
    tokens, mask_id, masked = start, start[0, 0], start.shape[1]
    for step, left in enumerate(masked_counts(start.shape[1], steps, schedule)):
        # As many in each row. `nonzero` would make a GPU wait.
        places = (tokens != mask_id).byte().argsort(dim=1, stable=True)[:, :masked]
        said = predict(tokens)
        logits = head(said.gather(1, places[..., None].expand(-1, -1, said.shape[-1]))).float()
        noise = torch.rand(2, *start.shape, generator=generator).to(start.device)
        noise = noise.gather(2, places.expand(2, -1, -1))
        chosen, sure = draw(logits, temperature, noise[0])
        sure = sure + temperature * (1 - (step + 1) / steps) * gumbel(noise[1])
        best = sure.topk(masked - left, dim=1).indices
        tokens = tokens.scatter(1, places.gather(1, best), chosen.gather(1, best))
        masked = left
        yield tokens


def draw(logits: Tensor, temperature: float, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Codes int64 (...) from softmax(logits (..., K) / temperature), the likeliest at 0; and how
    sure the model is of them, (...): the logarithm of their share of softmax(logits).

    uniform: (...), in [0, 1): the code is where the cumulative probability passes it, which takes
    one random number instead of K.
    """
    likely = logits.softmax(-1)
    if temperature == 0:
        chosen = logits.argmax(-1, keepdim=True)
    else:
        tempered = likely if temperature == 1 else (logits / temperature).softmax(-1)
        cumulative = tempered.cumsum(-1)
        # The sum of all is 1 only to rounding: scaled by it, no draw falls beyond the last code.
        wanted = uniform[..., None] * cumulative[..., -1:]
        chosen = torch.searchsorted(cumulative, wanted, right=True)
        chosen = chosen.clamp_max(logits.shape[-1] - 1)
    return chosen[..., 0], likely.gather(-1, chosen)[..., 0].log()


def gumbel(uniform: Tensor) -> Tensor:
    """Gumbel noise from uniform numbers in [0, 1)."""
    exponential = -torch.log(uniform.clamp_min(SMALLEST))
    return -torch.log(exponential.clamp_min(SMALLEST))

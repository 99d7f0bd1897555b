"""Exercises of notebook 04: the schedule, and one step of unmasking."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from workshop_lib.exercises.exercise import Exercise, MistakeError, short
from workshop_lib.exercises.tokenizer import Attempt, tensor_of

if TYPE_CHECKING:
    import torch


def still_masked(tokens: int, steps: int) -> list[int]:
    """How many of the tokens are still masked after each step, by the cosine schedule."""
    return [int(tokens * math.cos(math.pi / 2 * step / steps)) for step in range(1, steps + 1)]


def unmask_step(
    tokens: torch.Tensor, logits: torch.Tensor, left: int, mask_id: int
) -> torch.Tensor:
    """tokens (B, N), some of them masks, and what a model says of each, logits (B, N, K): settles
    the likeliest codes where they are surest, until `left` masks are left in every row."""
    sure, code = logits.softmax(dim=-1).max(dim=-1)  # both (B, N)
    masked = tokens == mask_id
    sure = sure.masked_fill(~masked, -1)  # what is settled is not to choose from
    place = sure.topk(int(masked[0].sum()) - left, dim=1).indices
    return tokens.scatter(1, place, code.gather(1, place))


def _test_still_masked(attempt: Attempt) -> None:
    for tokens, steps in ((64, 8), (100, 5), (10, 1)):
        given = f"tokens = {tokens}, steps = {steps}"
        counts = _whole_numbers(attempt(tokens, steps), given)
        expected = still_masked(tokens, steps)
        shown = {"expected": short(expected), "got": short(counts)}
        if counts == expected:
            continue
        for message, wrong in _wrong_schedules(tokens, steps):
            if counts == wrong:
                raise MistakeError(message, given, **shown)
        if len(counts) != steps:
            raise MistakeError("It must be one number for each step.", given, **shown)
        if counts[-1] != 0:
            raise MistakeError("After the last step nothing may be masked.", given, **shown)
        raise MistakeError("Some of the numbers are off.", given, **shown)


def _whole_numbers(returned: Any, given: str) -> list[int]:
    """What an attempt returned, as a list of int."""
    values = returned.tolist() if hasattr(returned, "tolist") else returned
    if not isinstance(values, (list, tuple)):
        raise MistakeError("It must be a list, one number for each step.", given, got=short(values))
    if not all(float(value).is_integer() for value in values):
        raise MistakeError(
            "There are no halves of tokens: round down, with `int`.", given, got=short(values)
        )
    return [int(value) for value in values]


def _wrong_schedules(tokens: int, steps: int) -> list[tuple[str, list[int]]]:
    """Known mistakes: what to say of each, and what it gives."""
    moments = [step / steps for step in range(steps + 1)]
    shares = [math.cos(math.pi / 2 * u) for u in moments]
    down = [int(tokens * share) for share in shares]
    return [
        (
            "This begins before the first step, when all is masked, and so stops before the last. "
            "Count the steps from 1.",
            down[:-1],
        ),
        ("That is the state before the first step, too: one number too many.", down),
        (
            "That is how many are settled; asked is how many are still masked.",
            [tokens - count for count in down[1:]],
        ),
        (
            "That is how many each step settles; asked is how many are still masked after it.",
            [before - after for before, after in pairwise(down)],
        ),
        (
            "That is the linear schedule, which settles as many in each step. Use the cosine.",
            [int(tokens * (1 - u)) for u in moments[1:]],
        ),
        (
            "The cosine must fall from 1 to 0, not to -1: over a quarter of the circle, pi / 2.",
            [int(tokens * math.cos(math.pi * u)) for u in moments[1:]],
        ),
        (
            "`math.cos` wants radians: 90 degrees are pi / 2.",
            [int(tokens * math.cos(90 * u)) for u in moments[1:]],
        ),
        (
            "Round down (`int` does). cos(pi / 2) is not quite 0 for a computer, and a token would "
            "stay masked for ever.",
            [math.ceil(tokens * share) for share in shares[1:]],
        ),
        (
            "Round down (`int` does), not to the nearest.",
            [round(tokens * share) for share in shares[1:]],
        ),
        (
            "The sine has it backward: it settles many first and few in the end.",
            [int(tokens * (1 - math.sin(math.pi / 2 * u))) for u in moments[1:]],
        ),
    ]


def _test_unmask_step(attempt: Attempt) -> None:
    import torch

    mask = 3
    tokens = torch.full((2, 8), mask)
    tokens[0, 2], tokens[1, 1] = 0, 2
    logits = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(4))
    logits[1] *= 6  # surer than the other row everywhere
    logits[0, 2] = torch.tensor([0.0, 9.0, 0.0])  # sure, and wrong, of what is settled
    logits[1, 1] = torch.tensor([9.0, 0.0, 0.0])
    logits[0, 4] += 20  # large numbers, but all of them: it is not sure
    given = f"tokens = {short(tokens.tolist())} (3 is the mask), left = 2"
    result = attempt(tokens.clone(), logits.clone(), 2, mask)
    result = tensor_of(result, "The result", (2, 8), given)
    expected = unmask_step(tokens, logits, 2, mask)
    shown = {"expected": short(expected.tolist()), "got": short(result.tolist())}
    settled = tokens != mask
    if not torch.equal(result[settled], tokens[settled]):
        raise MistakeError("What is settled must stay: only masks may be replaced.", given, **shown)
    if torch.equal(result, expected):
        return
    new = (result != mask) & ~settled
    if not torch.equal(result[new].long(), logits.argmax(dim=-1)[new]):
        raise MistakeError(
            "A settled token is the likeliest code of its place, the argmax over the last axis of "
            "the logits.",
            given,
            **shown,
        )
    _test_how_many(result == mask, given, shown)
    _test_which(attempt, tokens, logits, new, given, shown)


def _test_how_many(masks: torch.Tensor, given: str, shown: dict[str, str]) -> None:
    """masks: bool (2, 8), where the attempt left a mask; 7 were masked, 2 are to be left."""
    counts = masks.sum(dim=1).tolist()
    if counts == [2, 2]:
        return
    if counts == [0, 0]:
        message = "It settles everything at once. `left` masks must be left."
    elif counts == [5, 5]:
        message = "It settles `left` tokens; but that is how many shall stay masked."
    elif counts == [1, 1]:
        message = "Too many are settled: the number of masks in a row, less `left`, are due."
    elif sum(counts) == 4:
        message = "Each row is a frame of its own, and must be left with `left` masks."
    else:
        message = (
            "Too few are settled: tokens that were settled before are among the surest, and were "
            "chosen again. Leave them out of the choice."
        )
    raise MistakeError(message, given, **shown)


def _test_which(
    attempt: Attempt,
    tokens: torch.Tensor,
    logits: torch.Tensor,
    new: torch.Tensor,
    given: str,
    shown: dict[str, str],
) -> None:
    """new: bool (2, 8), what the attempt settled: as many as it should, but not the surest."""
    import torch

    def chosen(sure: torch.Tensor) -> torch.Tensor:
        place = sure.masked_fill(tokens != 3, -torch.inf).topk(5, dim=1).indices
        return torch.zeros_like(new).scatter(1, place, value=True)

    if torch.equal(new, chosen(logits.max(dim=-1).values)):
        message = (
            "It takes the largest logits. Those of one place may all be large; how sure the model "
            "is shows in the probabilities, after softmax."
        )
    elif torch.equal(new, chosen(-logits.softmax(dim=-1).max(dim=-1).values)):
        message = "These are the tokens that it is least sure of. Begin with the surest."
    else:
        message = "These are not the tokens that it is surest of."
    raise MistakeError(message, given, **shown)


EXERCISES = (
    Exercise(
        still_masked,
        _test_still_masked,
        (
            "After step s of S, the share cos(pi / 2 * s / S) is still masked. What is it after "
            "the last one?",
            "The steps are 1 to S: `for step in range(1, steps + 1)`.",
            "`int(tokens * math.cos(math.pi / 2 * step / steps))` for each step, in a list.",
        ),
    ),
    Exercise(
        unmask_step,
        _test_unmask_step,
        (
            "`logits.softmax(dim=-1).max(dim=-1)` gives two things: how sure the model is of each "
            "place, and of which code.",
            "Places that are settled must not be chosen: give them a sureness of -1. Then "
            "`.topk(count, dim=1).indices` are the places to settle; how many?",
            "As many as there are masks in a row, less `left`. "
            "`tokens.scatter(1, place, code.gather(1, place))` puts the codes in.",
        ),
    ),
)

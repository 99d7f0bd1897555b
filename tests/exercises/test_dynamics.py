"""Notebook 04's exercises: each planted mistake is recognized for what it is."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.exercises.planting import (
    Mistake,
    assert_recognized,
    assert_solution_is_right,
    planter,
)
from workshop_lib import exercises as ex
from workshop_lib.models import maskgit

MISTAKES: list[Mistake] = []
mistake = planter(MISTAKES)


@mistake("hide_tokens", "The wrong way round")
def hides_the_rest(tokens, masked, mask_id):
    return tokens.masked_fill(~masked, mask_id), tokens.masked_fill(~masked, -100)


@mistake("hide_tokens", "a number of its own")
def mask_is_code_zero(tokens, masked, mask_id):
    return tokens.masked_fill(masked, 0), tokens.masked_fill(~masked, -100)


@mistake("hide_tokens", "a number of its own")
def mask_is_the_last_code(tokens, masked, mask_id):
    return tokens.masked_fill(masked, mask_id - 1), tokens.masked_fill(~masked, -100)


@mistake("hide_tokens", "must be seen as they are")
def sees_masks_and_minus_hundreds(tokens, masked, mask_id):
    targets = tokens.masked_fill(~masked, -100)
    return targets.masked_fill(masked, mask_id), targets


@mistake("hide_tokens", "asked about all tokens")
def asks_all(tokens, masked, mask_id):
    return tokens.masked_fill(masked, mask_id), tokens


@mistake("hide_tokens", "The targets say 'mask'")
def targets_from_seen(tokens, masked, mask_id):
    seen = tokens.masked_fill(masked, mask_id)
    return seen, seen.masked_fill(~masked, -100)


@mistake("hide_tokens", "not where it is")
def asks_what_is_seen(tokens, masked, mask_id):
    return tokens.masked_fill(masked, mask_id), tokens.masked_fill(masked, -100)


@mistake("hide_tokens", "changes the tokens that it was given")
def in_place(tokens, masked, mask_id):
    targets = tokens.masked_fill(~masked, -100)
    return tokens.masked_fill_(masked, mask_id), targets


@mistake("hide_tokens", "two things")
def seen_only(tokens, masked, mask_id):
    return tokens.masked_fill(masked, mask_id)


@mistake("spoil", "These are masks")
def by_masks(past, share, num_codes):
    return past.masked_fill(torch.rand(past.shape) < share, num_codes)


@mistake("spoil", "codes do not exist")
def one_code_too_many(past, share, num_codes):
    other = torch.randint(num_codes + 1, past.shape)
    return torch.where(torch.rand(past.shape) < share, other, past)


@mistake("spoil", "the same code")
def one_code_for_all(past, share, num_codes):
    return torch.where(torch.rand(past.shape) < share, torch.randint(num_codes, ()), past)


@mistake("spoil", "The same places")
def same_places(past, share, num_codes):
    hit = torch.rand(past.shape[-2:]) < share
    return torch.where(hit, torch.randint(num_codes, past.shape), past)


@mistake("spoil", "Whole frames")
def whole_frames(past, share, num_codes):
    hit = torch.rand(*past.shape[:2], 1, 1) < share
    return torch.where(hit, torch.randint(num_codes, past.shape), past)


@mistake("spoil", "the share is kept")
def keeps_the_share(past, share, num_codes):
    hit = torch.rand(past.shape) > share
    return torch.where(hit, torch.randint(num_codes, past.shape), past)


@mistake("spoil", "Another share")
def all_random(past, share, num_codes):
    return torch.randint(num_codes, past.shape)


@mistake("spoil", "changes the past that it was given")
def past_in_place(past, share, num_codes):
    hit = torch.rand(past.shape) < share
    past[hit] = torch.randint(num_codes, past.shape)[hit]
    return past


@mistake("still_masked", "Count the steps from 1")
def from_zero(tokens, steps):
    return [int(tokens * math.cos(math.pi / 2 * s / steps)) for s in range(steps)]


@mistake("still_masked", "one number too many")
def with_the_start(tokens, steps):
    return [int(tokens * math.cos(math.pi / 2 * s / steps)) for s in range(steps + 1)]


@mistake("still_masked", "how many are settled")
def settled(tokens, steps):
    return [tokens - count for count in ex.still_masked.reference(tokens, steps)]


@mistake("still_masked", "how many each step settles")
def settled_by_step(tokens, steps):
    counts = [tokens, *ex.still_masked.reference(tokens, steps)]
    return [counts[s] - counts[s + 1] for s in range(steps)]


@mistake("still_masked", "linear schedule")
def linear(tokens, steps):
    return [int(tokens * (1 - s / steps)) for s in range(1, steps + 1)]


@mistake("still_masked", "a quarter of the circle")
def half_a_circle(tokens, steps):
    return [int(tokens * math.cos(math.pi * s / steps)) for s in range(1, steps + 1)]


@mistake("still_masked", "wants radians")
def in_degrees(tokens, steps):
    return [int(tokens * math.cos(90 * s / steps)) for s in range(1, steps + 1)]


@mistake("still_masked", "masked for ever")
def rounded_up(tokens, steps):
    return [math.ceil(tokens * math.cos(math.pi / 2 * s / steps)) for s in range(1, steps + 1)]


@mistake("still_masked", "not to the nearest")
def to_the_nearest(tokens, steps):
    return [round(tokens * math.cos(math.pi / 2 * s / steps)) for s in range(1, steps + 1)]


@mistake("still_masked", "no halves of tokens")
def not_rounded(tokens, steps):
    return [tokens * math.cos(math.pi / 2 * s / steps) for s in range(1, steps + 1)]


@mistake("still_masked", "backward")
def by_sine(tokens, steps):
    return [int(tokens * (1 - math.sin(math.pi / 2 * s / steps))) for s in range(1, steps + 1)]


def settle(tokens, code, sure, count):
    place = sure.topk(count, dim=1).indices
    return tokens.scatter(1, place, code.gather(1, place))


@mistake("unmask_step", "What is settled must stay")
def replaces_settled(tokens, logits, left, mask_id):
    sure, code = logits.softmax(dim=-1).max(dim=-1)
    return settle(tokens, code, sure, tokens.shape[1] - left)


@mistake("unmask_step", "everything at once")
def all_at_once(tokens, logits, left, mask_id):
    return torch.where(tokens == mask_id, logits.argmax(dim=-1), tokens)


@mistake("unmask_step", "how many shall stay masked")
def settles_left(tokens, logits, left, mask_id):
    sure, code = logits.softmax(dim=-1).max(dim=-1)
    return settle(tokens, code, sure.masked_fill(tokens != mask_id, -1), left)


@mistake("unmask_step", "Too many are settled")
def counts_all_tokens(tokens, logits, left, mask_id):
    sure, code = logits.softmax(dim=-1).max(dim=-1)
    sure = sure.masked_fill(tokens != mask_id, -1)
    place = sure.topk(tokens.shape[1] - left, dim=1).indices
    masks = torch.where(tokens == mask_id, code, tokens)  # settled ones chosen last, and kept
    return tokens.scatter(1, place, masks.gather(1, place))


@mistake("unmask_step", "Too few are settled")
def chooses_among_all(tokens, logits, left, mask_id):
    sure, code = logits.softmax(dim=-1).max(dim=-1)
    new = settle(tokens, code, sure, int((tokens[0] == mask_id).sum()) - left)
    return torch.where(tokens == mask_id, new, tokens)


@mistake("unmask_step", "Each row is a frame of its own")
def one_choice_for_the_batch(tokens, logits, left, mask_id):
    sure, code = logits.softmax(dim=-1).max(dim=-1)
    sure = sure.masked_fill(tokens != mask_id, -1)
    rows = [t.flatten()[None] for t in (tokens, code, sure)]
    return settle(*rows, int((tokens == mask_id).sum()) - 2 * left).view_as(tokens)


@mistake("unmask_step", "least sure")
def least_sure(tokens, logits, left, mask_id):
    sure, code = logits.softmax(dim=-1).max(dim=-1)
    sure = (-sure).masked_fill(tokens != mask_id, -2)
    return settle(tokens, code, sure, int((tokens[0] == mask_id).sum()) - left)


@mistake("unmask_step", "the largest logits")
def by_logits(tokens, logits, left, mask_id):
    sure, code = logits.max(dim=-1)
    sure = sure.masked_fill(tokens != mask_id, -torch.inf)
    return settle(tokens, code, sure, int((tokens[0] == mask_id).sum()) - left)


@mistake("unmask_step", "the likeliest code of its place")
def unlikeliest(tokens, logits, left, mask_id):
    return ex.unmask_step.reference(tokens, -logits, left, mask_id)


@mistake("unmask_step", "not the tokens that it is surest of")
def from_the_left(tokens, logits, left, mask_id):
    order = -torch.arange(tokens.shape[1]).expand_as(tokens).float()
    order = order.masked_fill(tokens != mask_id, -99)
    return settle(tokens, logits.argmax(-1), order, int((tokens[0] == mask_id).sum()) - left)


@pytest.mark.parametrize("planted", MISTAKES, ids=lambda planted: planted[2].__name__)
def test_planted_mistake(planted: Mistake, capsys: Any) -> None:
    assert_recognized(planted, capsys)


@pytest.mark.parametrize("name", ["hide_tokens", "spoil", "still_masked", "unmask_step"])
def test_solution_is_right(name: str, capsys: Any) -> None:
    assert_solution_is_right(name, MISTAKES, capsys)


def hide_by_where(tokens, masked, mask_id):
    return torch.where(masked, mask_id, tokens), torch.where(masked, tokens, -100)


def spoil_a_copy(past, share, num_codes):
    result = past.clone()
    hit = torch.rand(past.shape) < share
    result[hit] = torch.randint(num_codes, (int(hit.sum()),))
    return result


def masked_by_the_library(tokens, steps):
    return maskgit.masked_counts(tokens, steps, "cosine")


def masked_as_tensor(tokens, steps):
    progress = torch.arange(1, steps + 1, dtype=torch.float64) / steps
    return (tokens * torch.cos(math.pi / 2 * progress)).long()


def unmask_by_loops(tokens, logits, left, mask_id):
    result = tokens.clone()
    for b, row in enumerate(logits.log_softmax(-1)):
        masked = [n for n in range(len(row)) if tokens[b, n] == mask_id]
        masked.sort(key=lambda n, row=row: -row[n].max())
        for n in masked[: len(masked) - left]:
            result[b, n] = row[n].argmax()
    return result


@pytest.mark.parametrize(
    ("name", "attempt"),
    [
        ("hide_tokens", hide_by_where),
        ("spoil", spoil_a_copy),
        ("still_masked", masked_by_the_library),
        ("still_masked", masked_as_tensor),
        ("unmask_step", unmask_by_loops),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_other_right_ways_are_right(name: str, attempt: Any, capsys: Any) -> None:
    assert getattr(ex, name).check(attempt) is attempt, capsys.readouterr().out


def test_spoiling_check_leaves_the_learners_random_numbers_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    ex.spoil.check(ex.spoil.reference)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_the_steps_unmask_as_the_library_does_at_temperature_0(steps: int) -> None:
    """The two exercises, one after the other, are the library's loop."""
    torch.manual_seed(0)
    table = torch.randn(11, 12, 10)  # logits that depend on what is settled already

    def predict(tokens: torch.Tensor) -> torch.Tensor:
        return table[tokens].roll(1, dims=1)[:, :, 0] + table[tokens].sum(dim=1)

    start = torch.full((4, 12), 10)
    *_, expected = maskgit.unmask(predict, start, steps, 0.0, "cosine")
    tokens = start
    for left in ex.still_masked.reference(12, steps):
        tokens = ex.unmask_step.reference(tokens, predict(tokens), left, 10)
    assert torch.equal(tokens, expected)

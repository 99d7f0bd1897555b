"""MaskGIT's arithmetic: schedules, training masks, and unmasking in k steps."""

import math
from itertools import pairwise

import pytest
import torch

from workshop_lib.errors import WorkshopError
from workshop_lib.models.maskgit import (
    draw,
    gumbel,
    mask_clip,
    masked_counts,
    masked_share,
    random_tokens,
    unmask,
)

SCHEDULES = ("cosine", "linear", "arccos")
MASK = 10


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_fall_from_all_to_none(schedule):
    share = masked_share(torch.linspace(0, 1, 101), schedule)
    assert math.isclose(share[0], 1, abs_tol=1e-6) and math.isclose(share[-1], 0, abs_tol=1e-6)
    assert (share.diff() < 0).all()
    halfway = {"cosine": math.cos(math.pi / 4), "linear": 0.5, "arccos": 2 / 3}
    assert math.isclose(share[50], halfway[schedule], rel_tol=1e-5)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("tokens", "steps"), [(64, 1), (64, 4), (64, 25), (64, 64), (3, 2)])
def test_each_step_unmasks_something_and_the_last_the_rest(schedule, tokens, steps):
    counts = masked_counts(tokens, steps, schedule)
    assert len(counts) == steps and counts[-1] == 0
    assert all(before > after for before, after in zip([tokens, *counts], counts, strict=False))


@pytest.mark.parametrize("steps", [0, 65])
def test_impossible_numbers_of_steps_are_refused(steps):
    with pytest.raises(WorkshopError, match=f"steps: {steps} must be 1 to 64"):
        masked_counts(64, steps, "cosine")


def sure_of_early(tokens):
    """Logits for code n % 10 at place n, the surer the earlier."""
    batch, places = tokens.shape
    target = torch.arange(places) % MASK
    sure = torch.linspace(9, 3, places)[:, None]
    return (torch.nn.functional.one_hot(target, MASK) * sure).expand(batch, -1, -1)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 4, 7])
def test_greedy_unmasking_takes_the_likeliest_where_it_is_surest(schedule, steps):
    start = torch.full((2, 20), MASK)
    seen = []
    for tokens, left in zip(
        unmask(sure_of_early, start, steps, 0.0, schedule),
        masked_counts(20, steps, schedule),
        strict=True,
    ):
        assert (tokens == MASK).sum(1).tolist() == [left, left]
        assert (tokens[:, : 20 - left] == torch.arange(20 - left) % MASK).all()
        seen.append(tokens)
    for before, after in pairwise(seen):
        settled = before != MASK
        assert torch.equal(after[settled], before[settled])


def test_chosen_tokens_are_fed_back():
    """Each guess is one more than the largest token that is there: steps build on each other."""

    def next_number(tokens):
        largest = torch.where(tokens == MASK, 0, tokens).max(1).values
        logits = torch.nn.functional.one_hot(largest + 1, MASK).float()[:, None]
        return (5 * logits).repeat(1, tokens.shape[1], 1)

    *_, tokens = unmask(next_number, torch.full((1, 4), MASK), 4, 0.0, "linear")
    assert sorted(tokens[0].tolist()) == [1, 2, 3, 4]
    *_, tokens = unmask(next_number, torch.full((1, 4), MASK), 1, 0.0, "linear")
    assert tokens[0].tolist() == [1, 1, 1, 1]


def test_draws_follow_the_probabilities_and_the_temperature():
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(30_000, -1)
    uniform = torch.rand(30_000, generator=seeded())
    for temperature in (1.0, 0.5, 3.0):
        wanted = (logits[0] / temperature).softmax(0)
        drawn = draw(logits, temperature, uniform)[0].bincount() / 30_000
        assert (drawn - wanted).abs().max() < 0.01
    assert (draw(logits, 0.0, uniform)[0] == 0).all()
    edge = torch.tensor([0.0, 1 - 2**-24])  # the smallest and the largest that there are
    assert draw(logits[:2], 1.0, edge)[0].tolist() == [0, 2]


def test_the_order_is_random_when_warm_and_the_seed_decides():
    start = torch.full((1, 20), MASK)

    def first(temperature, seed):
        steps = unmask(sure_of_early, start, 4, temperature, "linear", seeded(seed))
        return (next(steps) != MASK).nonzero()[:, 1].tolist()

    assert first(0.0, 1) == first(0.0, 2) == [0, 1, 2, 3, 4]
    assert first(8.0, 1) == first(8.0, 1) != first(8.0, 2)


def test_gumbel_noise_is_gumbel():
    noise = gumbel(torch.rand(100_000, generator=seeded()))
    assert math.isclose(noise.mean(), 0.5772, abs_tol=0.02)
    assert math.isclose(noise.std(), math.pi / math.sqrt(6), abs_tol=0.02)
    assert gumbel(torch.tensor([0.0, 1 - 2**-24])).isfinite().all()


def tokens_of_clips(batch=64, frames=5):
    return torch.randint(MASK, (batch, frames, 4, 4), generator=seeded(3))


def test_drafts_are_masked_by_the_schedule_and_past_is_settled():
    tokens = tokens_of_clips()
    for schedule, mean in (("cosine", 2 / math.pi), ("linear", 0.5), ("arccos", 2 / math.pi)):
        task = mask_clip(tokens, MASK, schedule, 0.0, 0.0, seeded())
        assert torch.equal(task.past, tokens[:, :-1])
        assert torch.equal(task.drafts == MASK, task.masked)
        assert torch.equal(task.drafts[~task.masked], tokens[:, 1:][~task.masked])
        assert torch.equal(task.masked.flatten(2).all(2) & task.whole, task.whole)
        assert math.isclose(task.whole.float().mean(), 0.25, abs_tol=0.01)
        assert math.isclose(task.masked[~task.whole].float().mean(), mean, abs_tol=0.05)


def test_one_draft_is_always_whole():
    for batch, frames in ((1, 2), (1, 4), (3, 2)):
        tokens = tokens_of_clips(batch, frames)
        assert mask_clip(tokens, MASK, "cosine", 0.0, 0.0, seeded()).whole.any()


def test_the_past_of_some_clips_is_masked():
    tokens = tokens_of_clips()
    task = mask_clip(tokens, MASK, "cosine", 0.0, 0.25, seeded())
    hidden = task.past == MASK
    assert torch.equal(task.past[~hidden], tokens[:, :-1][~hidden])
    assert 0.1 < hidden.flatten(1).any(1).float().mean() < 0.4


def test_corruption_stays_below_its_share_and_differs_between_clips():
    tokens = torch.zeros(400, 4, 8, 8, dtype=torch.int64)
    wrong = (random_tokens(tokens, 1000, 0.2, seeded()) != tokens).flatten(1).float().mean(1)
    assert math.isclose(wrong.mean(), 0.1, abs_tol=0.01)
    assert wrong.max() < 0.27 and wrong.min() < 0.02  # noise included
    assert torch.equal(random_tokens(tokens, 1000, 0.0, seeded()), tokens)

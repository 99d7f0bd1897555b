"""Exercises of notebook 05: noise, the best guess under it, and the step to less of it."""

from __future__ import annotations

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
from workshop_lib.models.diffusion_math import ddim
from workshop_lib.models.noise_schedules import make_schedule

MISTAKES: list[Mistake] = []
mistake = planter(MISTAKES)


def each(values):
    return values[..., None, None, None]


@mistake("add_noise", "exchanged")
def exchanges(video, alpha, sigma, eps):
    return each(sigma) * video + each(alpha) * eps


@mistake("add_noise", "alpha is missing")
def on_top(video, alpha, sigma, eps):
    return video + each(sigma) * eps


@mistake("add_noise", "their squares")
def mixes_by_squares(video, alpha, sigma, eps):
    return each(alpha) ** 2 * video + each(sigma) ** 2 * eps


@mistake("add_noise", "1 - sigma")
def mixes_in_a_line(video, alpha, sigma, eps):
    return (1 - each(sigma)) * video + each(sigma) * eps


@mistake("add_noise", "first frame")
def one_level_for_all(video, alpha, sigma, eps):
    return each(alpha[:, :1]) * video + each(sigma[:, :1]) * eps


@mistake("add_noise", "noise of its own")
def draws_its_own(video, alpha, sigma, eps):
    return each(alpha) * video + each(sigma) * torch.randn_like(eps)


@mistake("add_noise", "changes what it was given")
def in_place(video, alpha, sigma, eps):
    return video.mul_(each(alpha)).add_(each(sigma) * eps)


@mistake("add_noise", "It stops with RuntimeError")
def does_not_fit(video, alpha, sigma, eps):
    return alpha * video + sigma * eps


def squares(x, known, alpha):
    return (x - alpha * known).square().flatten(1)


def mean_by(score, known):
    return (score.softmax(dim=0)[:, None, None, None] * known).sum(dim=0)


@mistake("best_guess", "the nearest picture")
def nearest(x, known, alpha, sigma):
    return known[squares(x, known, alpha).sum(dim=1).argmin()]


@mistake("best_guess", "count alike")
def plain_mean(x, known, alpha, sigma):
    return known.mean(dim=0)


@mistake("best_guess", "The wrong way round")
def farthest(x, known, alpha, sigma):
    return mean_by(squares(x, known, alpha).sum(dim=1) / (2 * sigma**2), known)


@mistake("best_guess", "compare it with alpha * known")
def forgets_alpha(x, known, alpha, sigma):
    return mean_by(-squares(x, known, 1).sum(dim=1) / (2 * sigma**2), known)


@mistake("best_guess", "much too mild")
def means_over_pixels(x, known, alpha, sigma):
    return mean_by(-squares(x, known, alpha).mean(dim=1) / (2 * sigma**2), known)


@mistake("best_guess", "the 2 is missing")
def forgets_two(x, known, alpha, sigma):
    return mean_by(-squares(x, known, alpha).sum(dim=1) / sigma**2, known)


@mistake("best_guess", "depends on the noise")
def forgets_sigma(x, known, alpha, sigma):
    return mean_by(-squares(x, known, alpha).sum(dim=1), known)


@mistake("best_guess", "it gives nan")
def divides_nothing_by_nothing(x, known, alpha, sigma):
    likely = torch.exp(-squares(x, known, alpha).sum(dim=1) / (2 * sigma**2))
    return ((likely / likely.sum())[:, None, None, None] * known).sum(dim=0)


@mistake("ddim_step", "at once")
def all_at_once(x, x0, alpha, sigma, next_alpha, next_sigma):
    return next_alpha * x0


@mistake("ddim_step", "the guess itself")
def returns_the_guess(x, x0, alpha, sigma, next_alpha, next_sigma):
    return x0


@mistake("ddim_step", "not without x0")
def takes_too_much_away(x, x0, alpha, sigma, next_alpha, next_sigma):
    return next_alpha * x0 + next_sigma * (x - x0) / sigma


@mistake("ddim_step", "divide by sigma")
def does_not_divide(x, x0, alpha, sigma, next_alpha, next_sigma):
    return next_alpha * x0 + next_sigma * (x - alpha * x0)


@mistake("ddim_step", "share of the old level")
def keeps_the_old_noise(x, x0, alpha, sigma, next_alpha, next_sigma):
    return next_alpha * x0 + (x - alpha * x0)


@mistake("ddim_step", "where it began")
def stays(x, x0, alpha, sigma, next_alpha, next_sigma):
    return alpha * x0 + sigma * (x - alpha * x0) / sigma


@mistake("ddim_step", "draws fresh noise")
def fresh_noise(x, x0, alpha, sigma, next_alpha, next_sigma):
    return next_alpha * x0 + next_sigma * torch.randn_like(x)


@pytest.mark.parametrize("planted", MISTAKES, ids=lambda m: m[2].__name__)
def test_a_mistake_is_recognized(planted: Mistake, capsys: Any) -> None:
    assert_recognized(planted, capsys)


@pytest.mark.parametrize("name", ["add_noise", "best_guess", "ddim_step"])
def test_the_solution_is_right(name: str, capsys: Any) -> None:
    assert_solution_is_right(name, MISTAKES, capsys)


def einsum_noise(video, alpha, sigma, eps):
    return torch.einsum("bt,btchw->btchw", alpha, video) + torch.einsum(
        "bt,btchw->btchw", sigma, eps
    )


def stable_by_hand(x, known, alpha, sigma):
    score = -squares(x, known, alpha).sum(dim=1) / (2 * sigma**2)
    likely = (score - score.max()).exp()
    return torch.einsum("n,nchw->chw", likely / likely.sum(), known)


def by_shrinking(x, x0, alpha, sigma, next_alpha, next_sigma):
    shrink = next_sigma / sigma
    return shrink * x + (next_alpha - shrink * alpha) * x0


@pytest.mark.parametrize(
    ("name", "attempt"),
    [
        ("add_noise", einsum_noise),
        ("best_guess", stable_by_hand),
        ("ddim_step", by_shrinking),
    ],
)
def test_other_right_ways_are_right(name: str, attempt: Any, capsys: Any) -> None:
    assert getattr(ex, name).check(attempt) is attempt, capsys.readouterr().out


def test_the_solutions_make_the_librarys_sampler() -> None:
    """Step by step from pure noise they end at one of the known pictures, as `ddim` does."""
    generator = torch.Generator().manual_seed(0)
    known = torch.randn(4, 3, 4, 4, generator=generator)
    schedule = make_schedule("cosine")
    levels = schedule.steps(12)
    alphas, sigmas = schedule.alpha_sigma(levels)
    begun = torch.randn(3, 4, 4, generator=generator)

    def denoise(x, level):
        return ex.best_guess.reference(x, known, *schedule.alpha_sigma(level))

    x = begun
    for i in range(12):
        x0 = denoise(x, levels[i])
        x = ex.ddim_step.reference(x, x0, alphas[i], sigmas[i], alphas[i + 1], sigmas[i + 1])
    torch.testing.assert_close(x, ddim(denoise, begun, schedule, levels))
    assert (x - known).abs().flatten(1).amax(dim=1).min() < 1e-3

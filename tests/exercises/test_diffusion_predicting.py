"""Exercises of notebook 05: what v means, what a narrow layer cannot say, and guidance."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tests.exercises.planting import (
    Mistake,
    assert_recognized,
    assert_solution_is_right,
    planter,
)
from workshop_lib import exercises as ex
from workshop_lib.models import diffusion_math

MISTAKES: list[Mistake] = []
mistake = planter(MISTAKES)


@mistake("clean_from_v", "A sign is wrong")
def adds(x, v, alpha, sigma):
    return alpha * x + sigma * v


@mistake("clean_from_v", "That is the noise")
def finds_the_noise(x, v, alpha, sigma):
    return sigma * x + alpha * v


@mistake("clean_from_v", "are exchanged")
def exchanges(x, v, alpha, sigma):
    return sigma * x - alpha * v


@mistake("clean_from_v", "if v were the noise")
def takes_v_for_noise(x, v, alpha, sigma):
    return (x - sigma * v) / alpha


@mistake("clean_from_v", "straight lines")
def takes_v_for_flow(x, v, alpha, sigma):
    return x - sigma * v


@mistake("clean_from_v", "do not divide by alpha")
def by_way_of_the_noise(x, v, alpha, sigma):
    return (x - sigma * (sigma * x + alpha * v)) / alpha


@mistake("left_over", "the sum over all")
def sums(covariance, width):
    values = torch.linalg.eigvalsh(covariance)
    return values[: len(values) - width].sum()


@mistake("left_over", "the share of the whole")
def shares(covariance, width):
    values = torch.linalg.eigvalsh(covariance)
    return values[: len(values) - width].sum() / values.sum()


@mistake("left_over", "what the layer can say")
def the_rest(covariance, width):
    values = torch.linalg.eigvalsh(covariance)
    return values[len(values) - width :].sum() / len(values)


@mistake("left_over", "the smallest first")
def wrong_end(covariance, width):
    return torch.linalg.eigvalsh(covariance)[width:].sum() / len(covariance)


@mistake("left_over", "The diagonal")
def diagonal(covariance, width):
    values = covariance.diagonal().sort()[0]
    return values[: len(values) - width].sum() / len(values)


@mistake("left_over", "Right for one width")
def only_one_lost(covariance, width):
    return torch.linalg.eigvalsh(covariance)[0] / len(covariance)


@mistake("guide", "A step too far")
def a_step_too_far(given, without, scale):
    return given + scale * (given - without)


@mistake("guide", "The wrong way round")
def away(given, without, scale):
    return given - scale * (given - without)


@mistake("guide", "Begin at `without`")
def from_without_backwards(given, without, scale):
    return without + scale * (without - given)


@mistake("guide", "the difference alone")
def difference(given, without, scale):
    return scale * (given - without)


@mistake("guide", "the whole picture stronger")
def louder(given, without, scale):
    return scale * given


@mistake("guide", "must give `given`")
def right_at_three_only(given, without, scale):
    return without + 3 * (given - without)


@pytest.mark.parametrize("planted", MISTAKES, ids=lambda m: m[2].__name__)
def test_a_mistake_is_recognized(planted: Mistake, capsys: Any) -> None:
    assert_recognized(planted, capsys)


@pytest.mark.parametrize("name", ["clean_from_v", "left_over", "guide"])
def test_the_solution_is_right(name: str, capsys: Any) -> None:
    assert_solution_is_right(name, MISTAKES, capsys)


@pytest.mark.parametrize(
    ("name", "attempt"),
    [
        (
            "clean_from_v",
            lambda x, v, alpha, sigma: (alpha * x - sigma * v) / (alpha**2 + sigma**2),
        ),
        ("left_over", lambda c, width: torch.linalg.svdvals(c)[width:].sum().item() / len(c)),
        ("guide", lambda given, without, scale: torch.lerp(without, given, scale)),
        ("guide", lambda given, without, scale: scale * given + (1 - scale) * without),
    ],
)
def test_other_right_ways_are_right(name: str, attempt: Any, capsys: Any) -> None:
    assert getattr(ex, name).check(attempt) is attempt, capsys.readouterr().out


def test_the_solutions_agree_with_the_library() -> None:
    x, v = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    alpha, sigma = torch.tensor(0.6), torch.tensor(0.8)
    mine = ex.clean_from_v.reference(x, v, alpha, sigma)
    torch.testing.assert_close(mine, diffusion_math.to_x0("v", v, x, alpha, sigma))
    mine = ex.guide.reference(x, v, 2.5)
    torch.testing.assert_close(mine, diffusion_math.guide(x, v, 2.5))


def test_no_layer_does_better_than_what_must_be_left_over() -> None:
    """A trained one comes near, and stays above."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.linspace(2, 0.3, 12)
    vectors = torch.randn(4000, 12, generator=generator) * spread
    floor = ex.left_over.reference(vectors.T @ vectors / len(vectors), 8).item()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = torch.nn.Sequential(
            torch.nn.Linear(12, 8, bias=False), torch.nn.Linear(8, 12, bias=False)
        )
    optimizer = torch.optim.Adam(layers.parameters(), 0.02)
    for _ in range(300):
        loss = F.mse_loss(layers(vectors), vectors)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert 0.999 * floor < loss.item() < 1.1 * floor

"""Notebook 06's exercises: each planted mistake is recognized for what it is."""

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
from workshop_lib.evaluation.control import nearer
from workshop_lib.evaluation.metrics import ratio

MISTAKES: list[Mistake] = []
mistake = planter(MISTAKES)


@mistake("strangers_keys", "still has their own")
def deals_nothing(actions):
    return actions.clone()


@mistake("strangers_keys", "no clip's keys")
def rolls_in_time(actions):
    return actions.roll(1, dims=1)


@mistake("strangers_keys", "keep their own keys")
def turns_around(actions):
    return actions.flip(0)


@mistake("strangers_keys", "used twice")
def everybody_the_neighbor_but_one(actions):
    result = actions.roll(1, dims=0).clone()
    result[0] = actions[1]
    return result


@mistake("strangers_keys", "changes the actions")
def in_place(actions):
    actions[:] = actions.roll(1, dims=0)
    return actions


def mse(x, y):
    return (x.float() - y.float()).square().mean(dim=(1, 2, 3))


@mistake("told_apart", "The wrong way round")
def farther(dream_a, dream_b, real_a, real_b):
    a = mse(dream_a, real_a) > mse(dream_a, real_b)
    b = mse(dream_b, real_b) > mse(dream_b, real_a)
    return (a.float() + b.float()) / 2


@mistake("told_apart", "Only dream a")
def asks_a(dream_a, dream_b, real_a, real_b):
    return (mse(dream_a, real_a) < mse(dream_a, real_b)).float()


@mistake("told_apart", "Only dream b")
def asks_b(dream_a, dream_b, real_a, real_b):
    return (mse(dream_b, real_b) < mse(dream_b, real_a)).float()


@mistake("told_apart", "One of two is a half")
def asks_for_both(dream_a, dream_b, real_a, real_b):
    a = mse(dream_a, real_a) < mse(dream_a, real_b)
    return (a & (mse(dream_b, real_b) < mse(dream_b, real_a))).float()


@mistake("told_apart", "wrap around")
def subtracts_bytes(dream_a, dream_b, real_a, real_b):
    def error(x, y):
        return (x - y).float().square().mean(dim=(1, 2, 3))

    a = error(dream_a, real_a) < error(dream_a, real_b)
    b = error(dream_b, real_b) < error(dream_b, real_a)
    return (a.float() + b.float()) / 2


@mistake("told_apart", "wrong shape")
def over_all_moments(dream_a, dream_b, real_a, real_b):
    return told(dream_a, dream_b, real_a, real_b).mean()


def told(dream_a, dream_b, real_a, real_b):
    return ex.told_apart.reference(dream_a, dream_b, real_a, real_b)


@mistake("gain", "The mean of the ratios")
def mean_of_ratios(dreamed, real):
    return (dreamed / real).mean()


@mistake("gain", "Upside down")
def upside_down(dreamed, real):
    return real.sum() / dreamed.sum()


@mistake("gain", "A difference")
def difference(dreamed, real):
    return (dreamed - real).mean()


@mistake("gain", "wrong shape")
def one_for_each(dreamed, real):
    return dreamed / real


@pytest.mark.parametrize("planted", MISTAKES, ids=lambda m: m[2].__name__)
def test_a_mistake_is_recognized(planted: Mistake, capsys: Any) -> None:
    assert_recognized(planted, capsys)


@pytest.mark.parametrize("name", ["strangers_keys", "told_apart", "gain"])
def test_the_solution_is_right(name: str, capsys: Any) -> None:
    assert_solution_is_right(name, MISTAKES, capsys)


@pytest.mark.parametrize(
    ("name", "attempt"),
    [
        ("strangers_keys", lambda actions: actions.roll(-1, 0)),
        ("strangers_keys", lambda actions: torch.cat([actions[1:], actions[:1]])),
        ("gain", lambda dreamed, real: dreamed.mean() / real.mean()),
        ("gain", lambda dreamed, real: (dreamed.sum() / real.sum()).item()),
    ],
)
def test_other_right_ways_are_right(name: str, attempt: Any, capsys: Any) -> None:
    assert getattr(ex, name).check(attempt) is attempt, capsys.readouterr().out


def test_the_solutions_measure_what_the_library_measures() -> None:
    generator = torch.Generator().manual_seed(0)
    real, dreamed = torch.randint(0, 256, (2, 9, 2, 8, 8, 3), generator=generator).byte()
    mine = told(dreamed[:, 0], dreamed[:, 1], real[:, 0], real[:, 1])
    assert torch.equal(mine.double(), nearer(real, dreamed))
    shifts = torch.rand(2, 30, generator=generator) + 0.5
    expected = ratio(shifts[0], shifts[1]).mean
    assert ex.gain.reference(*shifts).item() == pytest.approx(expected, rel=1e-5)

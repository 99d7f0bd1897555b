"""Notebook 03's exercises: each planted mistake is recognized for what it is."""

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
from workshop_lib.evaluation.agreement import best_mapping, mutual_information
from workshop_lib.models.latent_action import entropy_of_mean

MISTAKES: list[Mistake] = []
mistake = planter(MISTAKES)


@mistake("narrow", "Nothing is narrowed")
def lets_all_through(u):
    return u.tanh()


@mistake("narrow", "No gradient comes back")
def threshold(u):
    return (u.detach() > 0) * 2.0 - 1


@mistake("narrow", "The gradient is zero")
def sign_alone(u):
    return u.sign() + (u > 0) * 0 - (u == 0) * 1


@mistake("narrow", "third word")
def sign_of_zero(u):
    return u.tanh() + (u.sign() - u.tanh()).detach()


@mistake("narrow", "gradient of u itself")
def passes_u_back(u):
    return u + (2.0 * (u > 0) - 1 - u).detach()


@mistake("narrow", "0 and 1")
def zero_and_one(u):
    return u.tanh() + (1.0 * (u > 0) - u.tanh()).detach()


@mistake("narrow", "wrong way round")
def upside_down(u):
    return u.tanh() + (2.0 * (u <= 0) - 1 - u.tanh()).detach()


def entropy(p, dim=-1):
    return torch.special.entr(p).sum(dim=dim)


@mistake("codes_in_effect", "The mean of the entropies")
def mean_of_entropies(soft):
    return entropy(soft).mean().exp()


@mistake("codes_in_effect", "This is the entropy. Its exp")
def no_exp(soft):
    return entropy(soft.mean(dim=0))


@mistake("codes_in_effect", "in bits")
def bits(soft):
    return entropy(soft.mean(dim=0)) / torch.tensor(2.0).log()


@mistake("codes_in_effect", "Upside down")
def without_minus(soft):
    return (-entropy(soft.mean(dim=0))).exp()


@mistake("codes_in_effect", "minus infinity")
def log_of_zero(soft):
    mean = soft.mean(dim=0)
    return (-(mean * mean.log()).sum()).exp()


@mistake("codes_in_effect", "wrong shape")
def one_for_each(soft):
    return entropy(soft).exp()


@mistake("name_codes", "pressed most takes every code")
def counts_alone(table):
    return table.argmax(dim=0)


@mistake("name_codes", "One code for each key")
def other_axis(table):
    return (table / table.sum(dim=1, keepdim=True).clamp_min(1)).argmax(dim=1)


@mistake("name_codes", "never pressed takes all")
def zero_by_zero(table):
    return (table / table.sum(dim=1, keepdim=True)).argmax(dim=0)


@mistake("name_codes", "These are shares")
def the_shares(table):
    return (table / table.sum(dim=1, keepdim=True).clamp_min(1)).max(dim=0).values


@mistake("name_codes", "pressed most takes every code")
def divides_columns(table):
    return (table / table.sum(dim=0, keepdim=True).clamp_min(1)).argmax(dim=0)


def parts(table):
    joint = table / table.sum()
    flat = entropy(joint.flatten())
    keys, codes = entropy(joint.sum(dim=1)), entropy(joint.sum(dim=0))
    return keys + codes - flat, keys, codes, flat


@mistake("shared_information", "the information itself, in nats")
def not_normalized(table):
    return parts(table)[0]


@mistake("shared_information", "Half of it")
def over_the_sum(table):
    shared, keys, codes, _ = parts(table)
    return shared / (keys + codes)


@mistake("shared_information", "entropy of the keys alone")
def over_the_keys(table):
    shared, keys, _, _ = parts(table)
    return shared / keys


@mistake("shared_information", "joint entropy")
def over_the_joint(table):
    shared, _, _, joint = parts(table)
    return shared / joint


@mistake("shared_information", "Not a number")
def nan(table):
    joint = table / table.sum()
    return -(joint * joint.log()).sum()


@pytest.mark.parametrize("planted", MISTAKES, ids=lambda m: m[2].__name__)
def test_a_mistake_is_recognized(planted: Mistake, capsys: Any) -> None:
    assert_recognized(planted, capsys)


@pytest.mark.parametrize("name", ["narrow", "codes_in_effect", "name_codes", "shared_information"])
def test_the_solution_is_right(name: str, capsys: Any) -> None:
    assert_solution_is_right(name, MISTAKES, capsys)


@pytest.mark.parametrize(
    ("name", "attempt"),
    [
        ("narrow", lambda u: torch.where(u > 0, 1.0, -1.0) + u.tanh() - u.tanh().detach()),
        ("codes_in_effect", lambda soft: 2 ** (entropy(soft.mean(0)) / torch.tensor(2.0).log())),
        ("codes_in_effect", lambda soft: entropy(soft.mean(0)).exp().item()),
        ("name_codes", lambda t: (t.T / t.sum(1).clamp_min(1)).argmax(dim=1)),
        ("shared_information", lambda t: 2 * parts(t)[0] / (parts(t)[1] + parts(t)[2])),
    ],
)
def test_other_right_ways_are_right(name: str, attempt: Any, capsys: Any) -> None:
    assert getattr(ex, name).check(attempt) is attempt, capsys.readouterr().out


def test_the_solutions_measure_what_the_library_measures() -> None:
    dice = torch.Generator().manual_seed(0)
    keys, noise = torch.randint(6, (2, 500), generator=dice)
    codes = torch.where(noise > 2, noise, keys)
    table = torch.zeros(6, 6, dtype=torch.int64)
    table.index_put_((keys, codes), torch.tensor(1), accumulate=True)
    mine = ex.shared_information.reference(table).item()
    assert mine == pytest.approx(mutual_information(codes, keys), abs=1e-4)
    assert torch.equal(ex.name_codes.reference(table), best_mapping(table, balanced=True))
    soft = torch.rand(50, 4, generator=dice).softmax(dim=1)
    in_effect = entropy_of_mean(soft.log()).exp().item()
    assert ex.codes_in_effect.reference(soft).item() == pytest.approx(in_effect, rel=1e-4)

"""Notebook 07's exercises: each planted mistake is recognized for what it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.exercises.planting import (
    Mistake,
    assert_recognized,
    assert_solution_is_right,
    planter,
)
from workshop_lib import exercises as ex
from workshop_lib.data.datamodule import parts_of_batch
from workshop_lib.scaling import fit_power_law

MISTAKES: list[Mistake] = []
mistake = planter(MISTAKES)


@mistake("average_gradients", "This is the sum")
def sums(gradients):
    return [sum(each) for each in zip(*gradients, strict=True)]


@mistake("average_gradients", "process 0 found, alone")
def first_alone(gradients):
    return gradients[0]


@mistake("average_gradients", "over the processes, for each parameter apart")
def over_parameters(gradients):
    return [each[0].mean() for each in gradients]


@mistake("average_gradients", "the shape of its parameter")
def to_numbers(gradients):
    return [torch.stack(each).mean() for each in zip(*gradients, strict=True)]


@mistake("average_gradients", "must return a list")
def one_tensor(gradients):
    return gradients[0][0]


@mistake("average_gradients", "changes the gradients")
def in_place(gradients):
    for other in gradients[1:]:
        for mine, theirs in zip(gradients[0], other, strict=True):
            mine += theirs
    return [each / len(gradients) for each in gradients[0]]


@mistake("parts", "shared out first")
def whole_batch(batch_size, processes, fits):
    return ex.parts.reference(batch_size, 1, fits)


@mistake("parts", "how large a part is")
def size_of_a_part(batch_size, processes, fits):
    return batch_size // processes // ex.parts.reference(batch_size, processes, fits)


@mistake("parts", "not none")
def rounded_down(batch_size, processes, fits):
    return batch_size // processes // fits


@mistake("parts", "equal parts")
def rounded_up(batch_size, processes, fits):
    return -(-(batch_size // processes) // fits)


@mistake("parts", "fewer parts do, too")
def one_clip_each(batch_size, processes, fits):
    return batch_size // processes if fits < batch_size // processes else 1


@mistake("power_law", "alpha is minus the slope")
def sign(sizes, losses):
    slope, height = np.polyfit(np.log(sizes), np.log(losses), 1)
    return np.exp(height), slope


@mistake("power_law", "A itself is its exponential")
def log_of_A(sizes, losses):
    slope, height = np.polyfit(np.log(sizes), np.log(losses), 1)
    return height, -slope


@mistake("power_law", "wrong order")
def swapped(sizes, losses):
    return ex.power_law.reference(sizes, losses)[::-1]


@mistake("power_law", "both axes are logarithmic")
def straight(sizes, losses):
    slope, height = np.polyfit(sizes, losses, 1)
    return height, -slope


@mistake("power_law", "10 ** height")
def tens(sizes, losses):
    slope, height = np.polyfit(np.log10(sizes), np.log10(losses), 1)
    return np.exp(height), -slope


@mistake("power_law", "as polyfit gives it")
def untouched(sizes, losses):
    return tuple(np.polyfit(np.log(sizes), np.log(losses), 1))


@pytest.mark.parametrize("planted", MISTAKES, ids=lambda planted: planted[2].__name__)
def test_planted_mistake(planted: Mistake, capsys: Any) -> None:
    assert_recognized(planted, capsys)


@pytest.mark.parametrize("name", ["average_gradients", "parts", "power_law"])
def test_solution_is_right(name: str, capsys: Any) -> None:
    assert_solution_is_right(name, MISTAKES, capsys)


def averaged_by_stacking(gradients):
    return [torch.stack(each).mean(dim=0) for each in zip(*gradients, strict=True)]


def law_by_tens(sizes, losses):
    slope, height = np.polyfit(np.log10(sizes), np.log10(losses), 1)
    return [10**height, -slope]


def parts_by_counting(batch_size, processes, fits):
    share, n = batch_size // processes, 1
    while share % n or share / n > fits:
        n += 1
    return n


@pytest.mark.parametrize(
    ("name", "attempt"),
    [
        ("average_gradients", averaged_by_stacking),
        ("parts", parts_by_counting),
        ("power_law", law_by_tens),
        ("power_law", fit_power_law),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_other_right_ways_are_right(name: str, attempt: Any, capsys: Any) -> None:
    assert getattr(ex, name).check(attempt) is attempt, capsys.readouterr().out


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_parts_are_those_of_the_trainer(processes: int) -> None:
    count = ex.parts.reference(64, processes, 8)
    assert parts_of_batch(64, processes, 64 // processes // count) == count

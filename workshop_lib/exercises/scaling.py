"""Exercises of notebook 07: gradients of several processes, batches in parts, and a power law."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from workshop_lib.exercises.exercise import Exercise, MistakeError, short

if TYPE_CHECKING:
    import torch

Attempt = Callable[..., Any]


def average_gradients(gradients: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    """The gradient of the whole batch, one tensor per parameter, from `gradients[r][p]`: what
    process r found for parameter p on its equal share."""
    return [sum(each) / len(each) for each in zip(*gradients, strict=True)]


def parts(batch_size: int, processes: int, fits: int) -> int:
    """In how many parts, equal and as few as can be, a process takes its share of a batch, where
    only `fits` clips fit into memory at once."""
    share = batch_size // processes
    return next(n for n in range(1, share + 1) if share % n == 0 and share // n <= fits)


def power_law(sizes: np.ndarray, losses: np.ndarray) -> tuple[float, float]:
    """A and alpha of loss = A * size ** -alpha, by a straight line through the logarithms."""
    slope, height = np.polyfit(np.log(sizes), np.log(losses), 1)
    return np.exp(height), -slope


def _test_average_gradients(attempt: Attempt) -> None:
    import torch

    mine = [[torch.tensor([1.0, 2.0]), torch.tensor([[4.0]])],
            [torch.tensor([3.0, 6.0]), torch.tensor([[0.0]])],
            [torch.tensor([2.0, 4.0]), torch.tensor([[2.0]])]]  # fmt: skip
    before = [[tensor.clone() for tensor in each] for each in mine]
    expected = average_gradients(mine)
    given = f"gradients = {_plain(mine)}"
    result = attempt(mine)
    if isinstance(result, torch.Tensor) or not hasattr(result, "__len__"):
        raise MistakeError("It must return a list: one tensor for each parameter.", given)
    shown = {"expected": str(_plain([expected])[0]), "got": short(result)}
    if all(isinstance(tensor, torch.Tensor) for tensor in result):
        shown["got"] = str(_plain([list(result)])[0])
    if len(result) == 3:
        raise MistakeError(
            "There are two parameters, and three processes: the mean is over the processes, for "
            "each parameter apart. `zip(*gradients)` turns the one order into the other.",
            given,
            **shown,
        )
    if len(result) != 2:
        raise MistakeError(f"There are two parameters, not {len(result)}.", given, **shown)
    for got, wanted, each in zip(result, expected, zip(*before, strict=True), strict=True):
        if not isinstance(got, torch.Tensor) or got.shape != wanted.shape:
            raise MistakeError(
                "A gradient has the shape of its parameter: add up whole tensors, not their "
                "numbers.",
                given,
                **shown,
            )
        if torch.allclose(got, wanted):
            continue
        if torch.allclose(got, sum(each)):
            raise MistakeError(
                "This is the sum. Each process took the mean over its own share, so the mean over "
                "all is the mean of these means; with the sum, more processes would mean larger "
                "steps.",
                given,
                **shown,
            )
        if torch.allclose(got, each[0]):
            raise MistakeError("This is what process 0 found, alone.", given, **shown)
        raise MistakeError("These are not the means over the processes.", given, **shown)
    if any(
        not torch.equal(a, b)
        for x, y in zip(mine, before, strict=True)
        for a, b in zip(x, y, strict=True)
    ):
        raise MistakeError(
            "It changes the gradients that it was given: `a += b` on a tensor changes a itself.",
            given,
        )


def _plain(gradients: list[list[torch.Tensor]]) -> list[list[Any]]:
    return [[tensor.tolist() for tensor in each] for each in gradients]


def _test_parts(attempt: Attempt) -> None:
    for batch, processes, fits in (
        (64, 1, 64), (64, 1, 16), (64, 4, 8), (64, 2, 100), (48, 2, 10), (64, 2, 7), (32, 8, 4),
    ):  # fmt: skip
        got, wanted = attempt(batch, processes, fits), parts(batch, processes, fits)
        given = f"batch_size = {batch}, processes = {processes}, fits = {fits}"
        shown = {"expected": f"{wanted}", "got": short(got)}
        if not isinstance(got, (int, float, np.number)) or isinstance(got, bool):
            raise MistakeError("It must return a number: in how many parts.", given, **shown)
        got = float(got)
        if got == wanted:
            continue
        share = batch // processes
        if got == parts(batch, 1, fits) and processes > 1:
            raise MistakeError(
                "The batch is shared out first: a process has to take only batch_size / processes "
                "clips.",
                given,
                **shown,
            )
        if got == share // wanted:
            raise MistakeError(
                "This is how large a part is, not how many there are.", given, **shown
            )
        if got == 0:
            raise MistakeError(
                "Where all fits at once, that is one part, not none.", given, **shown
            )
        if got < wanted and share % got == 0:
            raise MistakeError(f"Parts of {share / got:g} clips do not fit.", given, **shown)
        if got != int(got) or share % int(got):
            raise MistakeError(
                f"{share} clips do not divide into {got:g} equal parts. Unequal ones would count "
                "unequally in the mean: try one part more.",
                given,
                **shown,
            )
        raise MistakeError(
            "That works, but fewer parts do, too, and larger ones are quicker.", given, **shown
        )


def _test_power_law(attempt: Attempt) -> None:
    for A, alpha, sizes in ((5.0, 0.5, [1e2, 1e4, 1e6]), (0.3, 0.12, [8e4, 2e5, 6e5, 1e6])):
        n = np.array(sizes)
        losses = A * n**-alpha * np.exp([0.05 * (-1) ** i for i in range(len(n))])
        wanted = power_law(n, losses)
        result = attempt(n.copy(), losses.copy())
        given = f"sizes = {[f'{v:g}' for v in n]}, losses = {[f'{v:.3g}' for v in losses]}"
        if not isinstance(result, (tuple, list, np.ndarray)) or len(result) != 2:
            raise MistakeError("It must return two numbers: A and alpha.", given)
        got = float(result[0]), float(result[1])
        shown = {
            "expected": f"A = {wanted[0]:.3g}, alpha = {wanted[1]:.3g}",
            "got": f"A = {got[0]:.3g}, alpha = {got[1]:.3g}",
        }
        _say_what_is_wrong(got, wanted, (n, losses), given, shown)


def _say_what_is_wrong(
    got: tuple[float, float],
    wanted: tuple[float, float],
    points: tuple[np.ndarray, np.ndarray],
    given: str,
    shown: dict[str, str],
) -> None:
    (A, alpha), (n, losses) = wanted, points

    def is_near(pair: tuple[float, float]) -> bool:
        return all(math.isclose(g, w, rel_tol=1e-3) for g, w in zip(got, pair, strict=True))

    if is_near((A, alpha)):
        return
    line = np.polyfit(np.log(n), np.log(losses), 1)
    for pair, message in (
        ((A, -alpha), "alpha is minus the slope: the loss falls, and alpha is above 0."),
        ((alpha, A), "The right numbers in the wrong order: A first, then alpha."),
        ((line[1], -line[0]), "The line's height is log A: A itself is its exponential."),
        ((line[0], line[1]), "This is the line as polyfit gives it: slope and height. alpha is "
         "minus the slope, and A the exponential of the height."),
    ):  # fmt: skip
        if is_near(pair):
            raise MistakeError(message, given, **shown)
    tens = np.polyfit(np.log10(n), np.log10(losses), 1)
    if math.isclose(got[0], math.exp(tens[1]), rel_tol=1e-3):
        raise MistakeError("With log10, the way back is 10 ** height, and not exp.", given, **shown)
    straight = np.polyfit(n, losses, 1)
    if any(math.isclose(abs(g), abs(w), rel_tol=1e-3) for g in got for w in straight):
        raise MistakeError(
            "This is a line through the numbers themselves. A power law is straight only where "
            "both axes are logarithmic: log loss = log A - alpha * log size.",
            given,
            **shown,
        )
    raise MistakeError("This is not the line through the logarithms.", given, **shown)


EXERCISES = (
    Exercise(
        average_gradients,
        _test_average_gradients,
        (
            "`zip(*gradients)` goes through the parameters, and gives for each what all processes "
            "found.",
            "For one parameter: add up what the processes found, and divide by how many they are. "
            "`sum` adds up tensors, too.",
            "`[sum(each) / len(each) for each in zip(*gradients)]`.",
        ),
    ),
    Exercise(
        parts,
        _test_parts,
        (
            "First: how many clips of the batch are a process's share?",
            "Then try 1 part, 2, 3, ...: the first number that divides the share and makes parts "
            "small enough.",
            "`share % n == 0 and share // n <= fits`, for n from 1 to the share.",
        ),
    ),
    Exercise(
        power_law,
        _test_power_law,
        (
            "Take the logarithm of loss = A * size ** -alpha: log loss = log A - alpha * log size. "
            "That is a straight line.",
            "`np.polyfit(x, y, 1)` gives the slope and the height of the line through points.",
            "`slope, height = np.polyfit(np.log(sizes), np.log(losses), 1)`; alpha is -slope, and "
            "A is np.exp(height).",
        ),
    ),
)

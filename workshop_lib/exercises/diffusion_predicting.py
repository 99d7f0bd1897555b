"""Exercises of notebook 05: what a network that predicts v means, what a narrow one cannot say, and
guidance. Its others are in diffusion.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workshop_lib.exercises.exercise import Exercise, MistakeError
from workshop_lib.exercises.tokenizer import Attempt, rounded, tensor_of

if TYPE_CHECKING:
    import torch


def clean_from_v(
    x: torch.Tensor, v: torch.Tensor, alpha: torch.Tensor, sigma: torch.Tensor
) -> torch.Tensor:
    """The clean picture in x, from v = alpha eps - sigma x0, where alpha^2 + sigma^2 = 1."""
    return alpha * x - sigma * v


def left_over(covariance: torch.Tensor, width: int) -> torch.Tensor:
    """The mean squared error per number that vectors of this covariance (n, n) keep in any layer
    with `width` inputs."""
    import torch

    spreads = torch.linalg.eigvalsh(covariance)  # the smallest first
    return spreads[: len(spreads) - width].sum() / len(spreads)


def guide(given: torch.Tensor, without: torch.Tensor, scale: float) -> torch.Tensor:
    """The guess without an action, moved towards the one with it: all the way at scale 1, and
    beyond it above."""
    return without + scale * (given - without)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    import torch

    return torch.allclose(a.float(), b.float(), atol=1e-4)


def _test_clean_from_v(attempt: Attempt) -> None:
    import torch

    x0, eps = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0))
    alpha, sigma = torch.tensor(0.8), torch.tensor(0.6)
    x, v = alpha * x0 + sigma * eps, alpha * eps - sigma * x0
    given = f"alpha 0.8, sigma 0.6, x = {rounded(x)}, v = {rounded(v)}"
    result = tensor_of(attempt(x.clone(), v.clone(), alpha, sigma), "It", x0.shape, given)
    shown = {"expected": rounded(x0), "got": rounded(result)}
    known = {
        "That is the noise, eps.": eps,
        "A sign is wrong: there is too much of v.": alpha * x + sigma * v,
        "alpha and sigma are exchanged.": sigma * x - alpha * v,
        "That would be right if v were the noise: (x - sigma eps) / alpha.": (
            (x - sigma * v) / alpha
        ),
        "That would be right if v were eps - x0, as with straight lines.": x - sigma * v,
    }
    for message, wrong in known.items():
        if _same(result, wrong):
            raise MistakeError(message, given, **shown)
    if not _same(result, x0):
        raise MistakeError("That is not the clean picture.", given, **shown)
    zero = torch.tensor(0.0)
    pure = attempt(eps.clone(), -x0, zero, torch.tensor(1.0))
    if not torch.isfinite(pure).all() or not _same(pure, x0):
        raise MistakeError(
            "It fails at pure noise, where alpha is 0: do not divide by alpha.",
            "alpha 0, sigma 1; then v is -x0",
        )


def _test_left_over(attempt: Attempt) -> None:
    import torch

    turn = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)))[0]
    spreads = torch.tensor([8.0, 4.0, 2.0, 1.0])
    covariance = turn @ torch.diag(spreads) @ turn.T
    covariance = (covariance + covariance.T) / 2
    given = "a covariance of 4 numbers with eigenvalues 8, 4, 2 and 1, width = 3"
    result = _number(attempt(covariance.clone(), 3), given)
    shown = {"expected": "0.25", "got": f"{result:.3f}"}
    diagonal = covariance.diagonal()
    known = {
        1.0: "That is the sum over all 4 numbers; give the mean, for one of them.",
        1 / 15: "That is the share of the whole spread; give the mean squared error per number.",
        14 / 4: "That is what the layer can say. Asked is what it cannot.",
        7 / 4: "The layer keeps the largest, and here they count as lost: `eigvalsh` gives the "
        "smallest first.",
        8 / 4: "The layer keeps the largest, and here it is lost: `eigvalsh` gives the smallest "
        "first.",
    }
    for value, message in known.items():
        if abs(result - value) < 1e-3:
            raise MistakeError(message, given, **shown)
    if (
        abs(result - diagonal.sort()[0][0].item() / 4) < 1e-3
        or abs(result - diagonal[3].item() / 4) < 1e-3
    ):
        raise MistakeError(
            "The diagonal has the spread of single pixels. The layer may choose its directions "
            "better: the eigenvalues are the spreads along these.",
            given,
            **shown,
        )
    if abs(result - 0.25) > 1e-3:
        raise MistakeError("The error is off.", given, **shown)
    for width, expected in ((1, 7 / 4), (4, 0.0)):
        given = f"the same covariance, width = {width}"
        result = _number(attempt(covariance.clone(), width), given)
        if abs(result - expected) > 1e-3:
            raise MistakeError(
                "Right for one width, off for another.", given, f"{expected:g}", f"{result:.3f}"
            )


def _number(value: object, given: str) -> float:
    import torch

    return tensor_of(torch.as_tensor(value), "The error", (), given).item()


def _test_guide(attempt: Attempt) -> None:
    import torch

    given, without = torch.tensor([[0.5, -0.2, 0.0]]), torch.tensor([[0.1, 0.2, 0.0]])
    example = f"given = {rounded(given)}, without = {rounded(without)}, scale = 3"
    result = tensor_of(attempt(given.clone(), without.clone(), 3.0), "It", (1, 3), example)
    difference = given - without
    shown = {"expected": rounded(without + 3 * difference), "got": rounded(result)}
    known = {
        "A step too far: scale 1 must be the guess with the action. Begin at `without`.": (
            given + 3 * difference
        ),
        "The wrong way round: it moves away from the action.": given - 3 * difference,
        "Begin at `without`, and go from there in the direction of `given`.": (
            without - 3 * difference
        ),
        "That is the difference alone: it must be added to `without`.": 3 * difference,
        "That makes the whole picture stronger. Only what the action changes shall be.": 3 * given,
    }
    for message, wrong in known.items():
        if _same(result, wrong):
            raise MistakeError(message, example, **shown)
    if not _same(result, without + 3 * difference):
        raise MistakeError("The guess is off.", example, **shown)
    for scale, expected, what in ((1.0, given, "given"), (0.0, without, "without")):
        if not _same(attempt(given.clone(), without.clone(), scale), expected):
            raise MistakeError(f"Scale {scale:g} must give `{what}`.", example)


EXERCISES = (
    Exercise(
        clean_from_v,
        _test_clean_from_v,
        (
            "Two equations, x = alpha x0 + sigma eps and v = alpha eps - sigma x0, and two "
            "unknowns. Get rid of eps.",
            "Multiply the first by alpha and the second by sigma, and subtract: alpha x - sigma v "
            "= (alpha^2 + sigma^2) x0. What is alpha^2 + sigma^2?",
        ),
    ),
    Exercise(
        left_over,
        _test_left_over,
        (
            "A layer with `width` inputs can only reach `width` directions. The best are those "
            "along which the vectors spread the most; what lies along the others is lost.",
            "`torch.linalg.eigvalsh(covariance)` gives the spreads along all directions, the "
            "smallest first. Lost are the first n - width.",
            "Their sum, over n.",
        ),
    ),
    Exercise(
        guide,
        _test_guide,
        (
            "What does the action change? given - without. How often do you want that?",
            "Begin at `without` and add it `scale` times: at scale 1 that is `given`.",
        ),
    ),
)

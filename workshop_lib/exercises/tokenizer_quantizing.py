"""Exercises of notebook 02: the steps of quantizing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from workshop_lib.exercises.exercise import Exercise, MistakeError, short
from workshop_lib.exercises.tokenizer import Attempt, rounded, tensor_of

if TYPE_CHECKING:
    import torch


def nearest_code(vectors: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    """For each of vectors (n, D) the number of the nearest code of codebook (K, D): int64 (n,)."""
    distance = (vectors[:, None] - codebook[None]).square().sum(dim=-1)  # (n, K)
    return distance.argmin(dim=1)


def straight_through(q: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """Forward the values of q, backward the gradient of u."""
    return u + (q - u).detach()


def fsq(u: torch.Tensor, levels: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """u (n, D) to digits (n, D), channel i from 0 to levels[i] - 1, and tokens (n,)."""
    places = [math.prod(levels[:i]) for i in range(len(levels))]  # 1, L0, L0 * L1, ...
    share = (u.tanh() + 1) / 2  # 0 to 1
    digits = (share * (u.new_tensor(levels) - 1)).round().long()
    return digits, (digits * digits.new_tensor(places)).sum(dim=-1)


def _test_nearest_code(attempt: Attempt) -> None:
    import torch

    vectors = torch.tensor([[0.9, 0.1], [0.0, 2.9], [-2.0, 0.0], [0.2, 0.0]])
    codebook = torch.tensor([[1.0, 0.0], [0.0, 3.0], [-1.0, -1.0]])
    given = f"vectors = {short(vectors.tolist())}, codebook = {short(codebook.tolist())}"
    result = attempt(vectors.clone(), codebook.clone())
    distance = (vectors[:, None] - codebook[None]).square().sum(dim=-1)
    if isinstance(result, torch.Tensor) and result.shape == (3,):
        raise MistakeError(
            "It gives one answer for each code. The question is asked by the vectors: for each of "
            "them, which code? Take the minimum over the other axis.",
            given,
            "4 numbers",
            "3 numbers",
        )
    result = tensor_of(result, "The result", (4,), given)
    shown = {"expected": short(nearest_code(vectors, codebook).tolist()), "got": rounded(result)}
    if result.dtype.is_floating_point:
        raise MistakeError(
            "These are distances; what is wanted is the number of the code (argmin, not min).",
            given,
            **shown,
        )
    if torch.equal(result, distance.argmax(dim=1)):
        raise MistakeError("That is the farthest code, not the nearest.", given, **shown)
    if not torch.equal(result, nearest_code(vectors, codebook)):
        raise MistakeError("Some vectors get another code than the nearest.", given, **shown)
    _test_nearest_long_codes(attempt)


def _test_nearest_long_codes(attempt: Attempt) -> None:
    """Where other measures than the squared distance choose another code."""
    import torch

    cases = (
        ([[1.0, 0.2]], [[1.0, 0.0], [4.0, 4.0]], 0, "A long code wins because it is long: the "
         "largest product is not the smallest distance."),
        ([[0.0, 0.0]], [[2.0, 2.0], [3.0, 0.0]], 0, "Distance is straight: the root of the sum of "
         "squares. This sums absolute values."),
        ([[3.0, 0.0]], [[1.0, 0.0], [3.0, 0.5]], 1, "Directions alone do not tell: codes also "
         "have a length."),
    )  # fmt: skip
    for vectors, codebook, expected, message in cases:
        result = attempt(torch.tensor(vectors), torch.tensor(codebook))
        if int(result[0]) != expected:
            given = f"vectors = {vectors}, codebook = {codebook}"
            raise MistakeError(message, given, f"[{expected}]", short(result.tolist()))


def _test_straight_through(attempt: Attempt) -> None:
    import torch

    u = torch.tensor([0.3, -1.4, 2.2], requires_grad=True)
    table = torch.tensor([0.0, -1.0, 2.0], requires_grad=True)  # q may have a gradient, too
    result = tensor_of(attempt(table * 1.0, u), "The result", (3,), "u = [0.3, -1.4, 2.2]")
    given = "q = [0, -1, 2], u = [0.3, -1.4, 2.2]"
    if not torch.allclose(result, table):
        raise MistakeError(
            "Forward, the values must be those of q.", given, "[0, -1, 2]", rounded(result)
        )
    weights = torch.tensor([1.0, 10.0, 100.0])
    if result.requires_grad:
        (result * weights).sum().backward()
    to_u = torch.zeros(3) if u.grad is None else u.grad
    to_q = torch.zeros(3) if table.grad is None else table.grad
    if not to_u.any() and not to_q.any():
        raise MistakeError(
            "No gradient gets through at all: too much is detached.",
            given,
            "gradient [1, 10, 100] to u",
            "none",
        )
    if not torch.allclose(to_u, weights):
        raise MistakeError(
            "Backward, u must get exactly the gradient that arrives. Detach what should not be "
            "seen by backward.",
            given,
            "[1, 10, 100]",
            rounded(to_u),
        )
    if to_q.any():
        raise MistakeError(
            "u gets its gradient, but q gets one as well: detach q, too.",
            given,
            "no gradient to q",
            rounded(to_q),
        )


def _test_fsq(attempt: Attempt) -> None:
    import torch

    u = torch.tensor([[-9.0, -9.0], [9.0, 9.0], [0.1, -0.2], [0.6, 9.0], [0.6, -9.0]])
    levels = [5, 3]
    given = f"u = {short([[round(v, 1) for v in row] for row in u.tolist()])}, levels = {levels}"
    returned = attempt(u.clone(), levels)
    if not isinstance(returned, tuple) or len(returned) != 2:
        raise MistakeError("It must return two things: digits and tokens.", given)
    digits = tensor_of(returned[0], "digits", (5, 2), given)
    tokens = tensor_of(returned[1], "tokens", (5,), given)
    wanted, numbers = fsq(u, levels)
    shown = {"expected": f"digits {short(wanted.tolist())}", "got": f"{short(digits.tolist())}"}
    top = digits.amax(dim=0).tolist()
    if digits.min() < 0:
        raise MistakeError(
            "Digits begin at 0. tanh runs from -1 to 1: bring it to 0 to 1 first.", given, **shown
        )
    if top == levels:
        raise MistakeError(
            "One level too many: L levels are the digits 0 to L - 1.", given, **shown
        )
    if top[0] > levels[0] or top[1] > levels[1]:
        raise MistakeError(
            "Digits run over the last level: large numbers must be bounded, by tanh.",
            given,
            **shown,
        )
    if torch.equal(digits.long(), ((u.tanh() + 1) / 2 * (u.new_tensor(levels) - 1)).long()):
        raise MistakeError("Round to the nearest level; this always rounds down.", given, **shown)
    if not torch.allclose(digits.float(), wanted.float()):
        raise MistakeError("These are not the nearest levels of tanh(u).", given, **shown)
    shown = {"expected": f"tokens {numbers.tolist()}", "got": f"{tokens.tolist()}"}
    if len(set(tokens.tolist())) < len(set(numbers.tolist())):
        raise MistakeError(
            "Two different codes get the same token. Count as with digits of a number: each step "
            "of the second channel is worth levels[0] steps of the first.",
            given,
            **shown,
        )
    if not torch.equal(tokens.long(), numbers):
        raise MistakeError(
            "Every code has a token of its own, but not the one agreed upon: the first channel "
            "counts 1, the second levels[0], the third levels[0] * levels[1].",
            given,
            **shown,
        )
    if tokens.dtype.is_floating_point:
        raise MistakeError("Tokens are whole numbers: use `.long()`.", given)


EXERCISES = (
    Exercise(
        nearest_code,
        _test_nearest_code,
        (
            "First make a table of all distances, one row for each vector, one column for each "
            "code; then find the smallest in each row.",
            "`vectors[:, None] - codebook[None]` has the shape (n, K, D): every difference.",
            "Square, sum over the last axis, and take `.argmin(dim=1)`.",
        ),
    ),
    Exercise(
        straight_through,
        _test_straight_through,
        (
            "`x.detach()` has the values of x, but backward sees it as a constant. Which part "
            "should be a constant here?",
            "Start from u, which is to get the gradient, and add something constant that makes the "
            "sum equal to q.",
            "What must be added to u to get q? `q - u`. Detach that.",
        ),
    ),
    Exercise(
        fsq,
        _test_fsq,
        (
            "Three steps: bound u with tanh (-1 to 1), stretch that to 0 to L - 1, round.",
            "`(u.tanh() + 1) / 2` lies between 0 and 1. Times `torch.tensor(levels) - 1`, rounded, "
            "as `.long()`: those are the digits.",
            "The token of digits (a, b, c) is `a + levels[0] * b + levels[0] * levels[1] * c`; "
            "`math.prod(levels[:i])` is what channel i counts.",
        ),
    ),
)

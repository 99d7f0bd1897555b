"""Exercises of notebook 03: the bottleneck, and codes in use. Its others: latent_meaning.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workshop_lib.exercises.exercise import Exercise, MistakeError, short
from workshop_lib.exercises.tokenizer import Attempt, rounded, tensor_of

if TYPE_CHECKING:
    import torch


def narrow(u: torch.Tensor) -> torch.Tensor:
    """Forward 1 where u is above 0 and -1 elsewhere, backward the gradient of tanh(u)."""
    smooth = u.tanh()
    hard = 2.0 * (u > 0) - 1
    return smooth + (hard - smooth).detach()


def codes_in_effect(soft: torch.Tensor) -> torch.Tensor:
    """How many codes a batch uses: exp of the entropy of the mean of soft (n, K), from 1 to K.

    Each row says how much of one transition belongs to each code, and sums to 1.
    """
    mean = soft.mean(dim=0)
    entropy = -(mean * mean.clamp_min(1e-12).log()).sum()  # 0 log 0 counts as 0
    return entropy.exp()


def _test_narrow(attempt: Attempt) -> None:
    import torch

    u = torch.tensor([[0.3, -2.0], [-0.1, 0.8]], requires_grad=True)
    given = f"u = {rounded(u)}"
    result = tensor_of(attempt(u), "The result", (2, 2), given)
    wanted = narrow(u)
    shown = {"expected": rounded(wanted), "got": rounded(result)}
    if set(result.unique().tolist()) <= {0.0, 1.0}:
        raise MistakeError("These are 0 and 1; the two words are -1 and 1.", given, **shown)
    if torch.allclose(result, -wanted):
        raise MistakeError("The wrong way round: 1 where u is above 0.", given, **shown)
    if torch.allclose(result, u.tanh()):
        raise MistakeError(
            "Nothing is narrowed: a real number passes, and there is room in it for the whole next "
            "frame. Forward there are only -1 and 1.",
            given,
            **shown,
        )
    if not torch.allclose(result, wanted, atol=1e-6):
        raise MistakeError("Other values than -1 and 1 come out.", given, **shown)
    zero = attempt(torch.zeros(1, 2, requires_grad=True))
    if not bool((zero.detach().abs() > 0.5).all()):
        raise MistakeError(
            "For 0 a third word comes out (sign(0) is 0); say -1 there.",
            "u = [[0, 0]]",
            "[[-1, -1]]",
            rounded(zero),
        )
    _test_narrow_gradient(u, result, given)


def _test_narrow_gradient(u: torch.Tensor, result: torch.Tensor, given: str) -> None:
    import torch

    if not result.requires_grad:
        raise MistakeError(
            "No gradient comes back: the encoder would never learn. A threshold has slope 0; take "
            "the smooth value, and add what is missing to the hard one, as a constant "
            "(`.detach()`).",
            given,
        )
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    (back,) = torch.autograd.grad((result * weights).sum(), u, allow_unused=True)
    wanted = weights * (1 - u.detach().tanh().square())
    back = torch.zeros_like(u) if back is None else back
    shown = {"expected": f"gradient {rounded(wanted)}", "got": f"gradient {rounded(back)}"}
    if not back.any():
        raise MistakeError(
            "The gradient is zero: detach the difference of hard and smooth, not the smooth value.",
            given,
            **shown,
        )
    if torch.allclose(back, weights, atol=1e-5):
        raise MistakeError(
            "This is the gradient of u itself. With that of tanh(u), a number that is far from the "
            "border is left in peace.",
            given,
            **shown,
        )
    if not torch.allclose(back, wanted, atol=1e-5):
        raise MistakeError("The values are right, the gradient is not.", given, **shown)


def _test_codes_in_effect(attempt: Attempt) -> None:
    import math

    import torch

    soft = torch.tensor([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.9, 0.05, 0.05]])
    given = f"soft = {rounded(soft)}"
    value = number_of(attempt(soft.clone()), given)
    wanted = codes_in_effect(soft).item()
    shown = {"expected": f"{wanted:.3f}", "got": f"{value:.3f}"}
    entropy = math.log(wanted)
    each = torch.special.entr(soft).sum(dim=1)
    for mistaken, message in (
        (
            each.mean().exp().item(),
            "The mean of the entropies: it says how undecided each transition is. Take the mean of "
            "the rows first, then its entropy: how much the whole batch uses.",
        ),
        (each.exp().mean().item(), "Each row by itself; first take the mean of the rows."),
        (entropy, "This is the entropy. Its exp is a number of codes."),
        (entropy / math.log(2), "This is the entropy, in bits. Its exp, in nats, is a number of "
         "codes (or 2 to the power of the bits)."),
        (math.exp(entropy / math.log(2)), "Bits go with 2 ** bits, nats (`log`) with `exp`."),
        (1 / wanted, "Upside down: an entropy has a minus."),
    ):  # fmt: skip
        if abs(value - mistaken) < 1e-3:
            raise MistakeError(message, given, **shown)
    if abs(value - wanted) > 1e-3:
        raise MistakeError("The number is off.", given, **shown)
    dead = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    given = f"soft = {rounded(dead)}"
    value = number_of(attempt(dead.clone()), given)
    if not abs(value - 1) < 1e-3:
        raise MistakeError(
            "A code that nobody uses has a share of 0, and 0 log 0 counts as 0; a logarithm of 0 "
            "is minus infinity.",
            given,
            "1.000",
            f"{value:.3f}",
        )


def number_of(result: object, given: str) -> float:
    """What an attempt returned, if it is a single number."""
    import torch

    if not isinstance(result, (int, float, torch.Tensor)):
        raise MistakeError("The result must be one number.", given, got=short(result))
    return tensor_of(torch.as_tensor(result), "The result", (), given).item()


EXERCISES = (
    Exercise(
        narrow,
        _test_narrow,
        (
            "Two versions of u: a hard one, -1 or 1, and a smooth one, tanh(u). You want the "
            "values of the first and the gradient of the second.",
            "smooth + (hard - smooth) has the values of hard. What is in the brackets must not "
            "count for the gradient: `.detach()` does that.",
            "`hard = 2.0 * (u > 0) - 1`; then `u.tanh() + (hard - u.tanh()).detach()`.",
        ),
    ),
    Exercise(
        codes_in_effect,
        _test_codes_in_effect,
        (
            "First the share of each code in the whole batch: the mean over the rows. Then the "
            "entropy of these K shares.",
            "The entropy is the sum of -p log p. Where p is 0 that counts as 0: "
            "`p.clamp_min(1e-12).log()` keeps the logarithm finite.",
            "`mean = soft.mean(dim=0)`; then `(-(mean * mean.clamp_min(1e-12).log()).sum()).exp()`",
        ),
    ),
)

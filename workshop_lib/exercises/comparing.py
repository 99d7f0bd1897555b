"""Exercises of notebook 06: a stranger's keys, telling two futures apart, and the gain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workshop_lib.exercises.exercise import Exercise, MistakeError, short
from workshop_lib.exercises.tokenizer import Attempt, rounded, tensor_of

if TYPE_CHECKING:
    import torch


def strangers_keys(actions: torch.Tensor) -> torch.Tensor:
    """Actions (B, T) of B clips, dealt out anew: each clip gets those of another one."""
    return actions.roll(1, dims=0)


def told_apart(
    dream_a: torch.Tensor, dream_b: torch.Tensor, real_a: torch.Tensor, real_b: torch.Tensor
) -> torch.Tensor:
    """Which share of the two dreams is nearer to its own truth: 0, 1/2 or 1 for each of S moments.

    All uint8 (S, H, W, C): what is dreamed and what really comes after key a, and after key b.
    """

    def error(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x.float() - y.float()).square().mean(dim=(1, 2, 3))

    a_is_right = error(dream_a, real_a) < error(dream_a, real_b)
    b_is_right = error(dream_b, real_b) < error(dream_b, real_a)
    return (a_is_right.float() + b_is_right.float()) / 2


def gain(dreamed: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """How far the dreams are scrolled over how far the real game is, of all moments together.

    dreamed, real: float (S,), pixels between LEFT and RIGHT.
    """
    return dreamed.sum() / real.sum()


def _test_strangers_keys(attempt: Attempt) -> None:
    import torch

    for rows in (5, 2):
        actions = torch.arange(rows)[:, None] * 10 + torch.arange(3)
        given = f"actions = {actions.tolist()}"
        mine = actions.clone()
        result = tensor_of(attempt(mine), "The result", actions.shape, given)
        shown = {"got": short(result.tolist())}
        if not torch.equal(mine, actions):
            raise MistakeError("It changes the actions that it was given.", given)
        if torch.equal(result, actions):
            raise MistakeError("Everybody still has their own keys.", given, **shown)
        whose = [next((i for i in range(rows) if torch.equal(r, actions[i])), None) for r in result]
        if None in whose:
            raise MistakeError(
                "These are no clip's keys: deal out whole rows, each in the order in which it was "
                "pressed (the first dimension is the clips).",
                given,
                **shown,
            )
        if any(owner == i for i, owner in enumerate(whose)):
            raise MistakeError(
                "Some clips keep their own keys, as happens in a random shuffle; they would look "
                "as if wrong keys did no harm.",
                given,
                **shown,
            )
        if len(set(whose)) < rows:
            raise MistakeError(
                "Some keys are used twice and others not at all: deal each row to one clip, so "
                "that right and wrong keys are the same keys.",
                given,
                **shown,
            )


def _test_told_apart(attempt: Attempt) -> None:
    import torch

    def flat(*grays: int) -> torch.Tensor:
        return torch.tensor(grays, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 2, 2, 3).clone()

    real_a, real_b = flat(10, 10, 10, 200, 10), flat(200, 200, 200, 10, 200)
    dream_a, dream_b = flat(20, 150, 30, 190, 120), flat(190, 40, 60, 20, 180)
    given = (
        "gray pictures, five moments: dream_a = [20, 150, 30, 190, 120], dream_b = [190, 40, 60, "
        "20, 180], real_a = [10, 10, 10, 200, 10], real_b = [200, 200, 200, 10, 200]"
    )
    pictures = (dream_a, dream_b, real_a, real_b)
    result = tensor_of(attempt(*(p.clone() for p in pictures)), "The result", (5,), given).float()
    wanted = told_apart(*pictures)
    shown = {"expected": rounded(wanted), "got": rounded(result)}
    if torch.equal(result, wanted):
        return
    if torch.equal(result, 1 - wanted):
        raise MistakeError(
            "The wrong way round: right is the one that is nearer to its own truth.", given, **shown
        )
    for only, which in ((dream_a, "a"), (dream_b, "b")):
        own, other = (real_a, real_b) if which == "a" else (real_b, real_a)
        one = _nearer(only, own, other)
        if torch.equal(result, one):
            raise MistakeError(
                f"Only dream {which} is asked. A world that always shows the same would be right "
                f"half of the time with that one alone: ask both, and take the mean.",
                given,
                **shown,
            )
    both = ((_nearer(dream_a, real_a, real_b) + _nearer(dream_b, real_b, real_a)) == 2).float()
    if torch.equal(result, both):
        raise MistakeError(
            "One of two is a half. (Else chance would be 25%, and a world that always shows the "
            "same 0.)",
            given,
            **shown,
        )
    if torch.equal(result, _wrapped(*pictures)):
        raise MistakeError(
            "These numbers wrap around: the difference of two uint8 is a uint8, and 10 - 20 is "
            "246. Make them floats first.",
            given,
            **shown,
        )
    raise MistakeError("The shares are off.", given, **shown)


def _nearer(dream: torch.Tensor, own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    def error(real: torch.Tensor) -> torch.Tensor:
        return (dream.float() - real.float()).square().mean(dim=(1, 2, 3))

    return (error(own) < error(other)).float()


def _wrapped(a: torch.Tensor, b: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """As told_apart, by someone who takes differences of uint8."""

    def error(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        return (p - q).float().square().mean(dim=(1, 2, 3))

    return ((error(a, x) < error(a, y)).float() + (error(b, y) < error(b, x)).float()) / 2


def _test_gain(attempt: Attempt) -> None:
    import torch

    dreamed, real = torch.tensor([10.0, 11.0, 12.0, 3.0]), torch.tensor([10.0, 11.0, 18.0, 1.0])
    given = f"dreamed = {rounded(dreamed)}, real = {rounded(real)}"
    result = attempt(dreamed.clone(), real.clone())
    value = tensor_of(torch.as_tensor(result), "The gain", (), given).item()
    wanted = gain(dreamed, real).item()
    shown = {"expected": f"{wanted:.3f}", "got": f"{value:.3f}"}
    if abs(value - (dreamed / real).mean().item()) < 1e-4:
        raise MistakeError(
            "The mean of the ratios: the last moment, which hardly moved, counts more than all "
            "others (and one that did not move at all would make it infinite). First add up, "
            "then divide.",
            given,
            **shown,
        )
    if abs(value - 1 / wanted) < 1e-4:
        raise MistakeError("Upside down: a dream that moves too little has a gain below 1.", given)
    if abs(value - (dreamed - real).mean().item()) < 1e-4:
        raise MistakeError("A difference; the gain is how many times as far.", given, **shown)
    if abs(value - wanted) > 1e-4:
        raise MistakeError("The gain is off.", given, **shown)


EXERCISES = (
    Exercise(
        strangers_keys,
        _test_strangers_keys,
        (
            "Nobody may keep their own row, and each row must be used once. A random shuffle does "
            "not promise the first.",
            "Pass every row on to the next clip, and the last one's to the first.",
            "`actions.roll(1, dims=0)` does that.",
        ),
    ),
    Exercise(
        told_apart,
        _test_told_apart,
        (
            "For each moment ask twice: is dream_a nearer to real_a than to real_b? And dream_b "
            "the other way round?",
            "Nearer: the smaller mean squared difference, over height, width and color, which are "
            "dimensions 1, 2 and 3. uint8 cannot hold a negative number: `.float()` first.",
            "`error(dream_a, real_a) < error(dream_a, real_b)` is True where a is right; the mean "
            "of both answers, as floats, is the share.",
        ),
    ),
    Exercise(
        gain,
        _test_gain,
        (
            "Not the mean of the ratios: where the real game hardly moved, a ratio is huge.",
            "Add up all that was dreamed, and all that was real, and divide once.",
        ),
    ),
)

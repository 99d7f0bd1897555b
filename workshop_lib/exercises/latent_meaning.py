"""Exercises of notebook 03: what codes stand for, and how much they tell about the keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workshop_lib.exercises.exercise import Exercise, MistakeError
from workshop_lib.exercises.latent import number_of
from workshop_lib.exercises.tokenizer import Attempt, rounded, tensor_of

if TYPE_CHECKING:
    import torch


def name_codes(table: torch.Tensor) -> torch.Tensor:
    """The key that each code stands for, int64 (K,), from counts (A, K), as if all keys were
    equally common."""
    shares = table / table.sum(dim=1, keepdim=True).clamp_min(1)
    return shares.argmax(dim=0)


def shared_information(table: torch.Tensor) -> torch.Tensor:
    """Normalized mutual information of keys and codes, 0 to 1, from counts (A, K)."""

    def entropy(p: torch.Tensor) -> torch.Tensor:
        return -(p * p.clamp_min(1e-12).log()).sum()  # 0 log 0 counts as 0

    joint = table / table.sum()
    of_keys, of_codes = entropy(joint.sum(dim=1)), entropy(joint.sum(dim=0))
    return (of_keys + of_codes - entropy(joint)) / ((of_keys + of_codes) / 2)


def _test_name_codes(attempt: Attempt) -> None:
    import torch

    table = torch.tensor([[70, 60, 80], [17, 2, 1], [1, 8, 1]])
    given = f"table = {table.tolist()}"
    result = attempt(table.clone())
    if isinstance(result, torch.Tensor) and result.dtype.is_floating_point:
        raise MistakeError(
            "These are shares; what is wanted are the numbers of keys (argmax, not max).",
            given,
            got=rounded(result),
        )
    result = tensor_of(result, "The result", (3,), given)
    wanted = name_codes(table)
    shown = {"expected": str(wanted.tolist()), "got": str(result.tolist())}
    if torch.equal(result, table.argmax(dim=0)):
        raise MistakeError(
            "The key that is pressed most takes every code. Divide each row by its sum first: of "
            "all times that a key was pressed, which share got this code?",
            given,
            **shown,
        )
    shares = table / table.sum(dim=1, keepdim=True)
    if torch.equal(result, shares.argmax(dim=1)):
        raise MistakeError(
            "One code for each key; asked is one key for each code. (The other axis.)",
            given,
            **shown,
        )
    if not torch.equal(result, wanted):
        raise MistakeError("Some codes get another name.", given, **shown)
    _test_name_codes_of_other_tables(attempt)


def _test_name_codes_of_other_tables(attempt: Attempt) -> None:
    """Not square, and with a key that was never pressed."""
    import torch

    table = torch.tensor([[0, 0, 0, 0], [5, 3, 0, 1], [1, 6, 9, 4]])
    given = f"table = {table.tolist()}"
    result = tensor_of(attempt(table.clone()), "The result", (4,), given)
    wanted = name_codes(table)
    shown = {"expected": str(wanted.tolist()), "got": str(result.tolist())}
    if bool((result == 0).all()):
        raise MistakeError(
            "A key that was never pressed takes all codes: 0 / 0 is not a number. Divide by the "
            "sum of a row, or by 1 where that is 0 (`clamp_min(1)`).",
            given,
            **shown,
        )
    if not torch.equal(result, wanted):
        raise MistakeError("Some codes get another name.", given, **shown)


def _test_shared_information(attempt: Attempt) -> None:
    import torch

    table = torch.tensor([[30, 10, 0], [5, 40, 15]])
    given = f"table = {table.tolist()}"
    value = number_of(attempt(table.clone()), given)
    wanted = shared_information(table).item()
    shown = {"expected": f"{wanted:.4f}", "got": f"{value:.4f}"}
    joint = table / table.sum()
    keys = torch.special.entr(joint.sum(dim=1)).sum()
    codes = torch.special.entr(joint.sum(dim=0)).sum()
    both = torch.special.entr(joint).sum()
    shared = keys + codes - both
    share_of = "by the mean of the two entropies (then 1 means: the same under other names)"
    if value != value:
        raise MistakeError(
            "Not a number: 0 log 0 counts as 0, and a logarithm of 0 is minus infinity.",
            given,
            **shown,
        )
    for mistaken, message in (
        (shared, f"This is the information itself, in nats. Divide {share_of}."),
        (shared / torch.tensor(2.0).log(), f"This is the information itself, in bits. Divide it "
         f"{share_of}."),
        (shared / both, f"Divided by the joint entropy. Divide {share_of}."),
        (shared / (keys + codes), f"Half of it: divided by the sum. Divide {share_of}."),
        (shared / keys, f"Divided by the entropy of the keys alone. Divide {share_of}."),
        (shared / codes, f"Divided by the entropy of the codes alone. Divide {share_of}."),
        (-shared_information(table), "An entropy has a minus: -p log p."),
    ):  # fmt: skip
        if abs(value - float(mistaken)) < 1e-4:
            raise MistakeError(message, given, **shown)
    if abs(value - wanted) > 1e-4:
        raise MistakeError("The number is off.", given, **shown)


EXERCISES = (
    Exercise(
        name_codes,
        _test_name_codes,
        (
            "Of all times that a key was pressed, which share got each code? That is each row, "
            "divided by its sum.",
            "Then go down each column, and take the key with the largest share. A row of zeros "
            "would be divided by 0: let the sum be 1 at least.",
            "`(table / table.sum(dim=1, keepdim=True).clamp_min(1)).argmax(dim=0)`",
        ),
    ),
    Exercise(
        shared_information,
        _test_shared_information,
        (
            "Divide the table by its sum: probabilities. The rows' sums are those of the keys, the "
            "columns' sums those of the codes.",
            "An entropy is the sum of -p log p, where 0 log 0 counts as 0: "
            "`-(p * p.clamp_min(1e-12).log()).sum()`. "
            "Shared: entropy of the keys, plus that of the codes, minus that of both together.",
            "Divide what is shared by the mean of the entropies of keys and codes.",
        ),
    ),
)

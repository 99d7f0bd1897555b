"""Codes that are the actions under other names agree with them; random ones do not."""

from __future__ import annotations

import torch

from workshop_lib.data.actions import JUMP, LEFT, RIGHT
from workshop_lib.evaluation.agreement import agreement, mutual_information

MERGED = 6  # left, right, jump, jump-left, jump-right, nothing


def test_perfect_codes_agree_and_random_ones_do_not() -> None:
    generator = torch.Generator().manual_seed(0)
    actions = torch.randint(MERGED, (64, 32), generator=generator)
    names = torch.tensor([3, 0, 5, 1, 4, 2])  # code of each action
    fitted = 100.0 * torch.eye(MERGED)[names]
    perfect = agreement(names[actions], actions, fitted)
    assert perfect.nmi.mean > 0.999
    assert perfect.balanced.mean > 0.999
    assert perfect.accuracy.mean > 0.999

    guessed = torch.randint(MERGED, (64, 32), generator=generator)
    chance = agreement(guessed, actions, fitted)
    assert chance.nmi.mean < 0.05
    assert abs(chance.balanced.mean - 1 / MERGED) < 0.05
    assert chance.majority < 0.25


def test_a_code_that_never_changes_tells_nothing() -> None:
    keys = torch.tensor([LEFT, RIGHT, JUMP]).repeat(10)
    assert mutual_information(torch.zeros(30, dtype=torch.int64), keys) == 0

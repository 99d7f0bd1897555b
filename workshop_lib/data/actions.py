"""Procgen's 15 actions: names, keys, and which of them do anything in CoinRun."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workshop_lib.errors import WorkshopError

NUM_ACTIONS = 15


@dataclass(frozen=True)
class Action:
    """One of Procgen's actions.

    index: what the game is given, 0 to 14.
    name: what it does in CoinRun.
    keys: the keyboard keys that stand for it ("left", "right", "up", "down", or a letter).
    merged: the index of the simplest action that has the same effect in CoinRun.
    """

    index: int
    name: str
    keys: tuple[str, ...]
    merged: int


ACTIONS: tuple[Action, ...] = (
    Action(0, "left-down", ("left", "down"), 0),
    Action(1, "left", ("left",), 1),
    Action(2, "left-jump", ("left", "up"), 2),
    Action(3, "down", ("down",), 3),
    Action(4, "nothing", (), 4),
    Action(5, "jump", ("up",), 5),
    Action(6, "right-down", ("right", "down"), 6),
    Action(7, "right", ("right",), 7),
    Action(8, "right-jump", ("right", "up"), 8),
    Action(9, "key d", ("d",), 4),
    Action(10, "key a", ("a",), 4),
    Action(11, "key w", ("w",), 4),
    Action(12, "key s", ("s",), 4),
    Action(13, "key q", ("q",), 4),
    Action(14, "key e", ("e",), 4),
)

LEFT, LEFT_JUMP, NOTHING, JUMP, RIGHT, RIGHT_JUMP = 1, 2, 4, 5, 7, 8

# The six that a player tells apart. DOWN is left out: it matters in under 10% of states.
MERGED_NAMES: tuple[str, ...] = ("left", "right", "jump", "left-jump", "right-jump", "nothing")

_TO_MERGED_CLASS = np.array([0, 0, 3, 5, 5, 2, 1, 1, 4, 5, 5, 5, 5, 5, 5], dtype=np.int64)

# horizontal -1, 0, 1 (left, none, right) and vertical -1, 0, 1 (down, none, jump)
HORIZONTAL = np.array([-1, -1, -1, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0], dtype=np.int64)
VERTICAL = np.array([-1, 0, 1, -1, 0, 1, -1, 0, 1, 0, 0, 0, 0, 0, 0], dtype=np.int64)


def combine(horizontal: np.ndarray, vertical: np.ndarray) -> np.ndarray:
    """The action index of a direction: horizontal and vertical each in -1, 0, 1 (jump is 1)."""
    return 3 * (np.asarray(horizontal) + 1) + (np.asarray(vertical) + 1)


def merge_actions(actions: np.ndarray) -> np.ndarray:
    """Actions 0..14 of any shape to the six classes of MERGED_NAMES, int64, same shape."""
    return _TO_MERGED_CLASS[np.asarray(actions)]


def parse_actions(pattern: str) -> np.ndarray:
    """Action strings for people: "7,7,8x5" or "right,right,right-jump x5" to int64 (T,).

    Raises WorkshopError for an unknown action, naming it.
    """
    names = {action.name: action.index for action in ACTIONS}
    result: list[int] = []
    for item in pattern.split(","):
        word, times = item.strip(), 1
        head, separator, tail = word.rpartition("x")
        if separator and tail.strip().isdigit() and head.strip():
            word, times = head.strip(), int(tail)
        index = names.get(word, int(word) if word.isdigit() else -1)
        if not 0 <= index < NUM_ACTIONS:
            raise WorkshopError(
                f"unknown action {item.strip()!r} in {pattern!r}: use 0 to {NUM_ACTIONS - 1} or a "
                f"name such as left, right-jump, nothing"
            )
        result += [index] * times
    return np.array(result, dtype=np.int64)

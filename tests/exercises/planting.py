"""What the exercises of every notebook are held to: planted mistakes are seen for what they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workshop_lib import exercises as ex

# (exercise, what its message must say, a wrong attempt)
Mistake = tuple[str, str, Callable[..., Any]]


def planter(planted: list[Mistake]) -> Callable[[str, str], Callable[..., Any]]:
    """A decorator that adds a wrong attempt to `planted`: `@mistake(exercise, says)`."""

    def mistake(exercise: str, says: str) -> Callable[..., Any]:
        def plant(attempt: Callable[..., Any]) -> Callable[..., Any]:
            planted.append((exercise, says, attempt))
            return attempt

        return plant

    return mistake


def assert_recognized(mistake: Mistake, capsys: Any) -> None:
    """The notebook goes on with the library's version, and the message says what is wrong."""
    name, says, attempt = mistake
    exercise = getattr(ex, name)
    assert exercise.check(attempt) is exercise.reference
    said = capsys.readouterr().out
    assert said.startswith("Not right yet.") and says in said


def assert_solution_is_right(name: str, planted: list[Mistake], capsys: Any) -> None:
    """The solution passes its own check, and three or more kinds of mistakes do not."""
    exercise = getattr(ex, name)
    assert exercise.check(exercise.reference) is exercise.reference
    assert capsys.readouterr().out.startswith("Right!")
    assert len({says for other, says, _ in planted if other == name}) >= 3

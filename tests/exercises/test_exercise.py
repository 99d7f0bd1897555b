"""What a learner sees and gets, whatever the attempt does."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from workshop_lib import exercises as ex
from workshop_lib.exercises.exercise import Exercise, MistakeError, _Note


def double(x: int) -> int:
    """Twice x."""
    return 2 * x


def check_double(attempt: Callable[..., Any]) -> None:
    for x in (1, 5):
        if (got := attempt(x)) + 0 != 2 * x:
            raise MistakeError(f"2 * {x} is {2 * x}.", f"x = {x}", str(2 * x), str(got))


@pytest.fixture
def exercise() -> Exercise:
    return Exercise(double, check_double, ("Think of `x`.", "Add it to itself.", "`2 * x`"))


def dots(x):
    """A stub."""
    ...


def raises(x):
    raise NotImplementedError("your turn")


def returns_none(x):
    return None


@pytest.mark.parametrize("stub", [dots, raises, returns_none, lambda x: ...])
def test_a_stub_is_not_tried_yet(exercise: Exercise, stub: Any, capsys: Any) -> None:
    assert exercise.check(stub) is double
    said = capsys.readouterr().out
    assert said.startswith("Not tried yet.") and "ex.double.hint()" in said


def forgets_return(x):
    y = x + x  # noqa: F841


def crashes(x):
    values = [x]
    return values[x]


def needs_more(x, y):
    return x + y


@pytest.mark.parametrize(
    ("attempt", "says"),
    [
        (lambda x: x + 1, ["2 * 5 is 10.", "input:    x = 5", "expected: 10", "got:      6"]),
        (forgets_return, ["returns None: is a `return` missing?", "input:    x = 1"]),
        (crashes, ["IndexError: list index out of range", "`return values[x]`", "x = 1"]),
        (needs_more, ["TypeError: needs_more() missing 1 required positional argument: 'y'"]),
        (lambda x: "a string", ["unexpected form (TypeError"]),
        (lambda x: x / 0, ["ZeroDivisionError"]),
        (4, ["the function itself, not 4"]),
        (double(3), ["the function itself, not 6"]),
    ],
)
def test_a_mistake_is_explained_and_the_notebook_goes_on(
    exercise: Exercise, attempt: Any, says: list[str], capsys: Any
) -> None:
    assert exercise.check(attempt) is double
    said = capsys.readouterr().out
    assert said.startswith("Not right yet.")
    assert "goes on with the library's double until yours is right" in said
    for part in says:
        assert part in said


def test_a_right_attempt_is_kept(exercise: Exercise, capsys: Any) -> None:
    mine = lambda x: x + x  # noqa: E731
    assert exercise.check(mine) is mine
    assert capsys.readouterr().out == "Right! The notebook goes on with your double.\n"


def test_interrupting_an_endless_attempt_works(exercise: Exercise) -> None:
    def endless(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        exercise.check(endless)


def test_an_attempt_cannot_spoil_the_examples(capsys: Any) -> None:
    def total(values: np.ndarray) -> int:
        return int(values.sum())

    def check_total(attempt: Callable[..., Any]) -> None:
        values = np.array([3, 4])
        attempt(values)
        if values.tolist() != [3, 4]:
            raise AssertionError("the example was changed")

    def clears(values):
        values[:] = 0
        return 7

    assert Exercise(total, check_total, ("",)).check(clears) is clears


def test_hints_get_stronger_and_start_again(exercise: Exercise, capsys: Any) -> None:
    for _ in range(4):
        exercise.hint()
    one, two, three, four = capsys.readouterr().out.strip().split("\n")
    assert one == four == "Hint 1 of 3. Think of `x`."
    assert two == "Hint 2 of 3. Add it to itself."
    assert three.startswith("Hint 3 of 3. `2 * x`") and "ex.double.solution()" in three


def test_the_solution_can_be_copied(exercise: Exercise, capsys: Any) -> None:
    exercise.solution()
    said = capsys.readouterr().out
    code = said[said.index("def double") :]
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["double"](21) == 42


def test_html_is_escaped_and_marks_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook messages are HTML; a learner's values must not become tags."""
    seen: list[str] = []
    monkeypatch.setattr(_Note, "show", lambda note: seen.append(note._repr_html_()))
    exercise = Exercise(double, check_double, ("Use `2 < 3`.",))
    exercise.hint()
    exercise.check(lambda x: MistakesLookLike())
    assert "<code>2 &lt; 3</code>" in seen[0]
    assert "&lt;b&gt;tag" in seen[1] and "<b>tag" not in seen[1]


class MistakesLookLike:
    def __add__(self, other: object) -> int:
        raise ValueError("<b>tag</b>")


def test_exercises_are_found_by_name() -> None:
    for name in dir(ex):
        exercise = getattr(ex, name)
        assert isinstance(exercise, Exercise) and exercise.name == name
        assert getattr(ex, name) is exercise  # hints count on
    with pytest.raises(AttributeError, match=r"no exercise 'nonsense'; there are .*align"):
        _ = ex.nonsense


def test_no_exercise_hides_behind_a_module() -> None:
    """After `import workshop_lib.exercises.data`, ex.data is that module."""
    modules = {path.stem for path in Path(ex.__file__).parent.glob("*.py")}
    assert modules.isdisjoint(dir(ex))


def test_names_are_unique_over_all_notebooks() -> None:
    modules = [ast.parse(path.read_text()) for path in Path(ex.__file__).parent.glob("*.py")]
    count = sum(
        isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Exercise"
        for module in modules
        for node in ast.walk(module)
    )
    assert count == len(dir(ex))


def test_importing_exercises_loads_nothing_heavy() -> None:
    code = "import sys; from workshop_lib import exercises as ex; ex.align; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"torch", "matplotlib", "IPython"}.isdisjoint(done.stdout.split())

"""One exercise of a notebook: checks an attempt, gives hints, shows the solution."""

from __future__ import annotations

import inspect
import linecache
import re
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from types import CodeType, TracebackType
from typing import Any, ClassVar

import numpy as np


class MistakeError(Exception):
    """What is wrong with an attempt, in words for its author.

    message: one or two sentences.
    given, expected, got: a tiny example that shows it; each as it should be printed.
    """

    def __init__(
        self,
        message: str,
        given: str | None = None,
        expected: str | None = None,
        got: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.example = {"input": given, "expected": expected, "got": got}


class NotTriedError(Exception):
    """The function is still the empty stub."""


class Exercise:
    """One exercise. Whatever an attempt does, `check` returns a function that works.

    Args:
        reference: the library's version; its source is the solution, so it must be short, and
            must need nothing but its arguments and what the notebook has imported.
        test: gets the attempt, and raises MistakeError for the first thing that is wrong with it.
        hints: from a nudge to nearly all of it.
    """

    def __init__(
        self,
        reference: Callable[..., Any],
        test: Callable[[Callable[..., Any]], None],
        hints: Sequence[str],
    ) -> None:
        self.reference, self.test, self.hints = reference, test, tuple(hints)
        self._hints_given = 0

    @property
    def name(self) -> str:
        return self.reference.__name__

    def check(self, attempt: Callable[..., Any]) -> Callable[..., Any]:
        """Says whether `attempt` is right; returns it if so, and else the library's version.

        Never raises, so that the notebook goes on.
        """
        goes_on = f"The notebook goes on with the library's {self.name}"
        try:
            self.test(_Guarded(attempt, list(inspect.signature(self.reference).parameters)))
        except NotTriedError:
            _Note("open", "Not tried yet.", f"{goes_on}. Stuck? `ex.{self.name}.hint()`").show()
        except MistakeError as mistake:
            after = f"{goes_on} until yours is right."
            _Note("wrong", "Not right yet.", mistake.message, mistake.example, after).show()
        except Exception as error:  # what the attempt returned confused the test itself
            what = f"What it returns has an unexpected form ({type(error).__name__}: {error})."
            _Note("wrong", "Not right yet.", what, after=f"{goes_on} until yours is right.").show()
        else:
            _Note("right", "Right!", f"The notebook goes on with your {self.name}.").show()
            return attempt
        return self.reference

    def hint(self) -> None:
        """Shows the next hint; each is stronger than the one before, and after the last they
        start again."""
        number = self._hints_given + 1
        self._hints_given = number % len(self.hints)
        text = self.hints[number - 1]
        if number == len(self.hints):
            text += f" This was the last hint; `ex.{self.name}.solution()` shows a solution."
        _Note("open", f"Hint {number} of {len(self.hints)}.", text).show()

    def solution(self) -> None:
        """Shows the source of the library's version."""
        _Note("open", "One solution.", code=inspect.getsource(self.reference)).show()


class _Guarded:
    """An attempt whose every failure becomes a MistakeError; it gets copies of arrays and lists."""

    def __init__(self, attempt: Callable[..., Any], names: list[str]) -> None:
        self.attempt, self.names = attempt, names

    def __call__(self, *arguments: Any) -> Any:
        if not callable(self.attempt):
            raise MistakeError(
                f"check wants the function itself, not {short(self.attempt)}: write its name "
                f"without parentheses."
            )
        given = ", ".join(
            f"{name} = {short(argument)}"
            for name, argument in zip(self.names, arguments, strict=True)
        )
        try:
            result = self.attempt(*[_copy(argument) for argument in arguments])
        except NotImplementedError:
            raise NotTriedError from None
        except Exception as error:
            where = _line_of(self.attempt, error.__traceback__)
            raise MistakeError(
                f"It stops with {type(error).__name__}: {error}{where}", given=given
            ) from error
        if result is None or result is ...:
            if _is_stub(self.attempt):
                raise NotTriedError
            raise MistakeError(f"It returns {result}: is a `return` missing?", given=given)
        return result


def short(value: Any) -> str:
    """A value as one short line."""
    text = " ".join(repr(_plain(value)).split())
    return text if len(text) <= 120 else text[:117] + "..."


def _plain(value: Any) -> Any:
    """A value without what only clutters its line: array(...), dtypes, long contents."""
    if isinstance(value, np.random.Generator):
        return "a random generator"
    if isinstance(value, (np.ndarray, np.generic)):
        too_long = value.size > 40
        return f"{value.dtype} array of shape {value.shape}" if too_long else value.tolist()
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value[:40])
    return value


def _copy(value: Any) -> Any:
    return value.copy() if isinstance(value, (np.ndarray, list, dict)) else value


def _is_stub(function: Any) -> bool:
    """Whether a function does nothing: no name is used in it, and no variable made."""
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return False
    arguments = code.co_argcount + code.co_kwonlyargcount
    return not code.co_names and code.co_nlocals == arguments


def _line_of(function: Any, trace: TracebackType | None) -> str:
    """The line of the attempt's own code in which an exception arose."""
    code = getattr(function, "__code__", None)
    frames = [f for f in traceback.extract_tb(trace) if code and f.filename == code.co_filename]
    if not frames or code is None:
        return ""
    line = linecache.getline(code.co_filename, frames[-1].lineno or 0).strip()
    return f", in the line `{line}`" if line else ""


@dataclass
class _Note:
    """A short message, for people: HTML in a notebook, plain text elsewhere."""

    kind: str
    head: str
    text: str = ""
    example: dict[str, str | None] = field(default_factory=dict)
    after: str = ""
    code: str = ""

    COLORS: ClassVar = {"right": "#009E73", "wrong": "#D55E00", "open": "#0072B2"}

    def __repr__(self) -> str:
        lines = [f"{self.head} {self.text}".strip()]
        lines += [f"  {name + ':':<10}{value}" for name, value in self._example()]
        return "\n".join([*lines, *filter(None, [self.code.rstrip(), self.after])])

    def _repr_html_(self) -> str:
        color, left = self.COLORS[self.kind], "style='text-align:left'"
        rows = "".join(
            f"<tr><td {left}>{name}</td><td {left}><code>{escape(value)}</code></td></tr>"
            for name, value in self._example()
        )
        parts = [f"<b style='color:{color}'>{self.head}</b> {_marked_up(self.text)}"]
        parts += [f"<table style='margin:0.4em 0'>{rows}</table>"] if rows else []
        parts += [f"<pre>{escape(self.code)}</pre>"] if self.code else []
        parts += [f"<div>{_marked_up(self.after)}</div>"] if self.after else []
        style = f"border-left:4px solid {color};padding:0.3em 0.8em"
        return f"<div style='{style}'>{''.join(parts)}</div>"

    def _example(self) -> list[tuple[str, str]]:
        return [(name, value) for name, value in self.example.items() if value is not None]

    def show(self) -> None:
        from IPython.core.getipython import get_ipython
        from IPython.display import display

        if get_ipython() is None:
            print(self)
        else:
            display(self)


def _marked_up(text: str) -> str:
    """Text as HTML, what stands in `backticks` as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))

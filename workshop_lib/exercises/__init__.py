"""The notebooks' exercises: `from workshop_lib import exercises as ex`, then `ex.NAME.check(mine)`.

One or two modules per notebook, which list their exercises in EXERCISES; they are found here by the
names of their reference functions. A new module needs no other line anywhere.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from workshop_lib.exercises.exercise import Exercise


def __getattr__(name: str) -> Exercise:
    """The exercise of that name; modules are loaded one by one until it is found."""
    if not name.startswith("_"):
        for module in _modules():
            found = _exercises(module).get(name)
            if found is not None:
                return found
    raise AttributeError(f"there is no exercise {name!r}; there are {', '.join(__dir__())}")


def __dir__() -> list[str]:
    return sorted(name for module in _modules() for name in _exercises(module))


def _modules() -> list[str]:
    return sorted(module.name for module in iter_modules(__path__) if module.name != "exercise")


def _exercises(module: str) -> dict[str, Exercise]:
    listed: tuple[Exercise, ...] = import_module(f"{__name__}.{module}").EXERCISES
    return {exercise.name: exercise for exercise in listed}

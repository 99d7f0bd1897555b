"""The `workshop` command: each verb is one library function, its options that function's
parameters, its help that function's docstring."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from workshop_lib.errors import WorkshopError

# verb: (module:function, what it does). Kept as text so that --help imports nothing heavy.
VERBS: dict[str, tuple[str, str]] = {
    "doctor": ("workshop_lib.doctor:doctor", "say what works on this machine, and the fix"),
    "sample": ("workshop_lib.data.sampling:sample", "play the real game and record episodes"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit status (0 good, 1 failed, 2 wrong usage)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    verb = arguments.pop(0)
    if verb == "--version":
        from workshop_lib import __version__

        print(__version__)
        return 0
    if verb not in VERBS:
        print(f"workshop: no verb {verb!r}; `workshop --help` lists them", file=sys.stderr)
        return 2
    return _run(verb, arguments)


def _run(verb: str, arguments: list[str]) -> int:
    from jsonargparse import auto_cli

    try:
        result = auto_cli(
            _load(VERBS[verb][0]),
            args=[_with_underscores(argument) for argument in arguments],
            prog=f"workshop {verb}",
        )
    except WorkshopError as error:
        print(f"workshop {verb}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\nworkshop {verb}: interrupted", file=sys.stderr)
        return 130
    return result if isinstance(result, int) else 0


def _load(target: str) -> Callable[..., Any]:
    module, function = target.split(":")
    return getattr(import_module(module), function)


def _with_underscores(argument: str) -> str:
    """--skip-bad is --skip_bad: people type either."""
    if not argument.startswith("--"):
        return argument
    name, separator, value = argument.partition("=")
    return "--" + name[2:].replace("-", "_") + separator + value


def _overview() -> str:
    width = max(len(verb) for verb in VERBS)
    lines = [f"  {verb:<{width}}  {what}" for verb, (_, what) in VERBS.items()]
    return "\n".join(
        ["usage: workshop VERB [options]    (workshop VERB --help says more)", "", *lines]
    )


if __name__ == "__main__":
    sys.exit(main())

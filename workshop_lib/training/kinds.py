"""Keys of a config that may be one of several dataclasses (VQ, FSQ or LFQ): which one is meant.

Their field `kind` says so. It is settled before anything is parsed: left the choice, jsonargparse
takes the first dataclass that accepts what is given, so that a stray key of another kind would
change the kind without a word.
"""

from __future__ import annotations

import argparse
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, cast, get_args, get_type_hints

from workshop_lib.errors import WorkshopError


def settle_kinds(
    group: str, config_class: type, values: dict[str, Any], arguments: list[str]
) -> tuple[dict[str, type], dict[str, Any]]:
    """The dataclass of every key that leaves a choice, and the values without those of another.

    group: how the config is called on the command line, "model". values: what the recipe says of
    it. arguments: the command line; where it names a kind other than the recipe's, what the recipe
    says of that key is dropped.

    Raises WorkshopError for an unknown kind, and for a key that the kind does not have.
    """
    settled, fitting = {}, dict(values)
    for field, choices in _fields_with_choice(config_class):
        name = f"{group}.{field.name}"
        said = values.get(field.name)
        said = said if isinstance(said, dict) else {}
        kind_before = said.get("kind", _default_kind(field))
        kind = _asked_kind(name, arguments) or kind_before
        if kind not in choices:
            raise WorkshopError(f"{name}.kind {kind!r}: choose one of {', '.join(choices)}")
        if kind != kind_before:
            fitting.pop(field.name, None)
            said = {}
        dotted = [a.partition("=")[0] for a in arguments if a.startswith(f"--{name}.")]
        _check_keys(name, kind, choices[kind], [*said, *(a[len(name) + 3 :] for a in dotted)])
        settled[field.name] = choices[kind]
    return settled, fitting


def _fields_with_choice(config_class: type) -> list[tuple[Field[Any], dict[str, type]]]:
    """The fields that are one of several dataclasses, and those by kind."""
    hints = get_type_hints(config_class)
    found = []
    for field in fields(config_class):
        choices = {
            choice.kind: cast(type, choice)
            for choice in get_args(hints[field.name])
            if is_dataclass(choice) and hasattr(choice, "kind")
        }
        if len(choices) > 1:
            found.append((field, choices))
    return found


def _default_kind(field: Field[Any]) -> Any:
    default = field.default if field.default_factory is MISSING else field.default_factory()
    return getattr(default, "kind", None)


def _asked_kind(name: str, arguments: list[str]) -> str | None:
    """What the command line says, as `--NAME.kind KIND` or with =; the last one counts."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(f"--{name}.kind", dest="kind", nargs="?")
    return parser.parse_known_args(arguments)[0].kind


def _check_keys(name: str, kind: str, config_class: type, keys: list[str]) -> None:
    known = [field.name for field in fields(config_class)]
    for key in keys:
        if key not in known:
            raise WorkshopError(
                f"{name}.{key}: no such key of {name}.kind {kind}; it has {', '.join(known)}"
            )

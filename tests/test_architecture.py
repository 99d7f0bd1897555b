"""The library's rooms: who may import whom, and what a cheap import must not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LIBRARY = Path(__file__).parent.parent / "workshop_lib"

# Each room and the rooms it builds on; what those build on, it may use, too. "data.clip" is one
# module of a room. Modules directly in workshop_lib (the CLI, say) and "exercises" are on top.
BUILDS_ON: dict[str, set[str]] = {
    "data": set(),
    "nn": set(),
    "media": {"data"},
    "models": {"nn", "data.clip"},
    "pretrained": {"models", "data"},
    "training": {"models", "data", "media", "pretrained"},
    "worlds": {"models", "data", "pretrained"},
    "evaluation": {"worlds", "media"},
    "play": {"worlds", "media"},
}
# Not upward or downward: usable by all.
FOR_ALL = {"", "errors"}


def allowed(room: str) -> set[str]:
    """The rooms that a room may import: what it builds on, all the way down."""
    below = BUILDS_ON[room]
    return below.union({room}, *(allowed(other) for other in below if other in BUILDS_ON))


def violations(library: Path) -> list[str]:
    """Every import of a library folder that points the wrong way, as "file:line: what"."""
    found = []
    rooms = {path.name for path in library.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    top = {"exercises"}
    found += [f"{room}: add this room to BUILDS_ON" for room in rooms - top - set(BUILDS_ON)]
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        room = parts[0] if len(parts) > 1 else ""
        if room in top or (room == "" and parts[0] not in ("__init__", "errors")):
            continue
        may = FOR_ALL | (allowed(room) if room in BUILDS_ON else set())
        for line, module in library_imports(path, parts, library):
            if module.split(".")[0] not in may and module not in may:
                found.append(f"{'/'.join(parts)}.py:{line}: imports {module}")
    return found


def library_imports(path: Path, parts: tuple[str, ...], library: Path) -> Iterator[tuple[int, str]]:
    """(line, module without "workshop_lib.") of every import in a file, also inside functions.

    `from workshop_lib import data` is an import of data; a name such as __version__ is "".
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif not isinstance(node, ast.ImportFrom):
            continue
        else:
            package = ["workshop_lib", *parts[: len(parts) - node.level]] if node.level else []
            base = package + (node.module.split(".") if node.module else [])
            names = [[*base, alias.name] for alias in node.names]
        for name in names:
            if name[0] != "workshop_lib":
                continue
            inner = name[1:]
            while inner and not is_module(library.joinpath(*inner)):
                inner = inner[:-1]
            yield node.lineno, ".".join(inner)


def is_module(path: Path) -> bool:
    return path.is_dir() or path.with_suffix(".py").is_file()


def test_imports_point_downward() -> None:
    assert violations(LIBRARY) == []


@pytest.mark.parametrize(
    ("file", "line", "caught"),
    [
        ("data/clips.py", "from workshop_lib.models import tokenizer", "models.tokenizer"),
        (
            "data/clips.py",
            "def f():\n    import workshop_lib.worlds.game_world",
            "worlds.game_world",
        ),
        ("nn/conv.py", "from workshop_lib.data.clip import Clip", "data.clip"),
        ("models/dit.py", "from workshop_lib.data import game", "data.game"),
        ("models/dit.py", "from ..data.game import Game", "data.game"),
        ("training/fit.py", "from workshop_lib import worlds", "worlds"),
        ("worlds/token.py", "from workshop_lib.cli import main", "cli"),
        ("evaluation/metrics.py", "from workshop_lib.exercises import check", "exercises.check"),
        ("errors.py", "from workshop_lib.data.clip import Clip", "data.clip"),
    ],
)
def test_wrong_import_is_caught(tmp_path: Path, file: str, line: str, caught: str) -> None:
    for name in ("data/game", "data/clip", "models/tokenizer", "worlds/game_world", "media/video"):
        module = tmp_path / f"{name}.py"
        module.parent.mkdir(exist_ok=True)
        module.write_text("from workshop_lib.errors import WorkshopError\n")
    for name in ("cli.py", "exercises/check.py", file):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("from workshop_lib.data.clip import Clip\n")
    (tmp_path / "exercises" / "__init__.py").touch()
    (tmp_path / file).write_text("from workshop_lib import __version__\n")
    assert violations(tmp_path) == []

    (tmp_path / file).write_text(line + "\n")
    assert [found.split(": imports ")[1] for found in violations(tmp_path)] == [caught]


def test_new_room_must_be_placed(tmp_path: Path) -> None:
    (tmp_path / "attic").mkdir()
    (tmp_path / "attic" / "box.py").touch()
    assert violations(tmp_path) == ["attic: add this room to BUILDS_ON"]


@pytest.mark.parametrize(
    "code",
    [
        "import workshop_lib",
        "import workshop_lib.cli; assert workshop_lib.cli.main(['--help']) == 0",
        "from workshop_lib.doctor import doctor",
        "from workshop_lib.data.shards import open_shard",
    ],
)
def test_cheap_imports_load_nothing_heavy(code: str) -> None:
    heavy = {"torch", "lightning", "matplotlib", "procgen", "jupyterlab", "gymnasium"}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules, sep='\\n')"],
        capture_output=True,
        text=True,
        check=True,
        cwd=LIBRARY.parent,
    )
    assert heavy.isdisjoint(done.stdout.split())

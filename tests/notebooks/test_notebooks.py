"""Every notebook runs without the game, and with its exercises solved. (As they are, with the game,
`make test` runs them through nbmake.)"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from nbformat import NotebookNode

from tests.notebooks.running import NOTEBOOKS, read, run, texts
from workshop_lib import exercises as ex

STUB = re.compile(r"def (my_(\w+))\(.*?(?=^\w+ = ex\.\2\.check\(\1\))", re.DOTALL | re.MULTILINE)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def stubs(notebook: NotebookNode) -> list[str]:
    """The names of the exercises, in order."""
    return [m[2] for cell in notebook.cells for m in STUB.finditer(cell.source)]


def assert_all_well(notebook: NotebookNode) -> None:
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error", cell.id
            assert output.get("name") != "stderr", f"{cell.id}: {output.text}"


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


def test_is_committed_clean(path: Path) -> None:
    notebook = read(path)
    assert "widgets" not in notebook.metadata
    assert notebook.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None, cell.id
        tags = cell.metadata.get("tags", [])
        assert not any("skip" in tag or "raises" in tag for tag in tags), cell.id
        # Links are fine; what a cell needs must be here: the notebook runs offline.
        assert not re.search(r"!\s*(pip|wget|curl)|https?://\S+\.(gif|png|jpe?g)", cell.source)


def test_every_stub_is_an_exercise_with_hints(path: Path) -> None:
    notebook = read(path)
    checked = re.findall(r"ex\.(\w+)\.check\(", "\n".join(cell.source for cell in notebook.cells))
    assert stubs(notebook) == checked
    for name in checked:
        assert len(getattr(ex, name).hints) >= 2, name
        text = "\n".join(cell.source for cell in notebook.cells)
        assert f"ex.{name}.hint()" in text and f"ex.{name}.solution()" in text, name


@pytest.mark.notebook
def test_runs_without_simulator_and_array_record(path: Path, tmp_path: Path) -> None:
    notebook = run(read(path), tmp_path, hidden=("procgen", "envpool", "array_record"))
    assert_all_well(notebook)
    assert all(cell.execution_count for cell in notebook.cells if cell.cell_type == "code")
    assert any("no simulator is installed" in text for text in texts(notebook))
    said = [text for text in texts(notebook) if "Not tried yet." in text]
    assert len(said) == len(stubs(notebook))


@pytest.mark.notebook
def test_solutions_are_right_and_cells_run_twice(path: Path, tmp_path: Path) -> None:
    """A learner's notebook when all is solved; and people run cells again."""
    notebook = read(path)
    names = stubs(notebook)
    for cell in notebook.cells:
        cell.source = STUB.sub(solution, cell.source)
    notebook.cells = [cell for cell in notebook.cells for _ in range(2)]
    run(notebook, tmp_path)
    assert_all_well(notebook)
    assert sum(text.startswith("Right!") for text in texts(notebook)) == 2 * len(names)


def solution(stub: re.Match[str]) -> str:
    """The source of the library's version, under the name of the stub that it replaces."""
    reference = getattr(ex, stub[2]).reference
    source = inspect.getsource(reference).replace(f"def {stub[2]}(", f"def {stub[1]}(", 1)
    return f"{source}\n\n"

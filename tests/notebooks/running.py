"""Runs notebooks in a real kernel, on a machine as it is or with packages hidden."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.conftest import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
CELL_SECONDS = 300

# Runs at the start of every Python that has its folder on PYTHONPATH.
HIDE_PACKAGES = """
import sys
from importlib.machinery import PathFinder

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] in {hidden!r}:
            return None
        return super().find_spec(name, path, target)

sys.meta_path = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]
"""


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def run(notebook: NotebookNode, folder: Path, hidden: tuple[str, ...] = ()) -> NotebookNode:
    """Runs a notebook in profile smoke; raises CellExecutionError if a cell does.

    folder: an empty one, for this run's own files.
    hidden: packages that shall seem not to be installed.
    """
    (folder / "sitecustomize.py").write_text(HIDE_PACKAGES.format(hidden=hidden))
    environment = os.environ | {
        "WORKSHOP_PROFILE": "smoke",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        resources={"metadata": {"path": str(REPOSITORY / "notebooks")}},
    )
    client.execute(env=environment)
    return notebook


def texts(notebook: NotebookNode) -> list[str]:
    """All that the cells printed or showed as plain text."""
    return [
        output.get("text", "") or output.get("data", {}).get("text/plain", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    ]

"""A learner's first minutes: JupyterLab opens notebook 01, all cells run, and pictures move."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator

from tests.browser.conftest import ARTIFACTS, NotebookPage

pytestmark = pytest.mark.browser


def picture(element: Locator) -> np.ndarray:
    """What the browser draws for an element: uint8 (H, W, 3)."""
    element.scroll_into_view_if_needed()
    return np.asarray(Image.open(io.BytesIO(element.screenshot())).convert("RGB"))


def test_notebook_01_in_jupyterlab(open_notebook: Callable[[str], NotebookPage]) -> None:
    notebook = open_notebook("01_data_sampling_and_splitting.ipynb")
    assert notebook.run_all()
    outputs = notebook.outputs()
    assert len(outputs) > 30
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]

    gif = notebook.locate('img[src^="data:image/gif"]').first
    one = picture(gif)
    assert one.shape[0] > 300 and one.std() > 20  # big enough, and not blank
    notebook.page.wait_for_timeout(700)
    assert not np.array_equal(one, picture(gif))  # it moves
    plot = picture(notebook.locate('img[src^="data:image/png"]').first)
    assert plot.std() > 20

    ARTIFACTS.mkdir(exist_ok=True)
    notebook.page.screenshot(path=ARTIFACTS / "notebook_01_in_jupyterlab.png")
    assert_slider_works(notebook)
    assert_note_is_colored(notebook)


def assert_slider_works(notebook: NotebookPage) -> None:
    """The episode browser: another frame when the slider moves."""
    shown = notebook.locate(".widget-image").first
    handle = notebook.locate(".noUi-handle").first
    before = picture(shown)
    handle.focus()
    for _ in range(8):
        handle.press("ArrowRight")
    notebook.page.wait_for_timeout(1000)
    after = picture(shown)
    assert before.shape == after.shape and not np.array_equal(before, after)
    assert before.shape[1] == 5 * 64  # not blown up by the page
    notebook.page.screenshot(path=ARTIFACTS / "episode_browser.png")


def assert_note_is_colored(notebook: NotebookPage) -> None:
    """Exercises answer in HTML."""
    note = (
        notebook.locate(
            "b",
        )
        .filter(has_text="Not tried yet.")
        .first
    )
    assert note.evaluate("e => getComputedStyle(e).color") == "rgb(0, 114, 178)"

"""Notebook 00 in JupyterLab: keys steer the dream, nothing gets stuck, buttons do without."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image
from playwright.sync_api import Locator

from tests.browser.conftest import ARTIFACTS, KERNEL_IS_IDLE, Lab, NotebookPage
from tests.browser.playing import PATIENCE, Player, moved
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.browser

PLAY = f"""
from workshop_lib.play.player import play
player = play("dynamics-tiny", data={str(REPOSITORY / "data")!r})
player"""
TAPS = 24  # for the latency


def write_notebook(folder: Path, *cells: str) -> str:
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells], metadata=kernel)
    nbformat.write(notebook, folder / "test.ipynb")
    return "test.ipynb"


def players(notebook: NotebookPage) -> Locator:
    return notebook.page.locator(".jp-Notebook .wp")


def cells(notebook: NotebookPage) -> int:
    return notebook.page.evaluate("jupyterapp.shell.currentWidget.model.toJSON().cells.length")


def assert_no_errors(notebook: NotebookPage) -> None:
    bad = [
        o for o in notebook.outputs() if o["output_type"] == "error" or o.get("name") == "stderr"
    ]
    assert bad == []


def test_notebook_00_in_jupyterlab(open_notebook: Callable[[str], NotebookPage]) -> None:
    notebook = open_notebook("00_start_here.ipynb")
    assert notebook.run_all()
    assert_no_errors(notebook)
    player = Player.on(notebook.page, players(notebook))
    count = cells(notebook)
    assert_keys_steer(player)
    assert_dd_deletes_nothing(notebook, player, count)
    assert_buttons_work(player)
    report_latency(player)
    ARTIFACTS.mkdir(exist_ok=True)
    player.button("both").click()
    player.root.scroll_into_view_if_needed()
    notebook.page.screenshot(path=ARTIFACTS / "play_notebook.png")

    player.page.keyboard.press("p")  # it runs while its cell is run again
    player.wait_for(2)
    assert notebook.run_all()
    assert_no_errors(notebook)
    again = Player.on(notebook.page, players(notebook))
    assert players(notebook).count() == 1
    again.wait_until_still()
    again.root.click(position={"x": 200, "y": 200})
    assert_keys_steer(again)
    assert notebook.locate('img[src^="data:image/gif"]').count() == 1
    for number, picture in enumerate(notebook.locate("img").all()):
        picture.scroll_into_view_if_needed()
        notebook.page.screenshot(path=ARTIFACTS / f"notebook_00_{number}.png")


def assert_keys_steer(player: Player) -> None:
    """RIGHT scrolls the scene left, LEFT the other way, and then it rests."""
    player.root.locator(".wp-main canvas").click()
    player.press("Space")
    start = player.picture()
    player.hold("ArrowRight", frames=9)
    assert moved(start, player.picture()) <= -4
    player.press("r")
    player.hold("ArrowLeft", frames=9)
    assert moved(start, player.picture()) >= 4


def assert_dd_deletes_nothing(notebook: NotebookPage, player: Player, count: int) -> None:
    """Twice D deletes a cell in JupyterLab; here it runs to the right."""
    for key in ("d", "d", "x", "a", "b"):
        player.page.keyboard.press(key)
    player.wait_until_still()
    assert cells(notebook) == count
    assert players(notebook).count() == 1


def assert_buttons_work(player: Player) -> None:
    player.press("r")
    start = player.picture()
    player.button("right").hover()
    player.page.mouse.down()
    player.wait_for(9)
    player.page.mouse.up()
    player.wait_until_still()
    assert moved(start, player.picture()) <= -4


def report_latency(player: Player) -> None:
    """From a key to its frame, less the time the model took; said and kept, not tested."""
    for _ in range(TAPS):
        player.press("Space")
    waits = [d["key"] - d["ms"] for d in player.details()[-TAPS:] if d["key"] is not None]
    assert len(waits) > TAPS / 2
    median, late = np.percentile(waits, [50, 95])
    models = np.median([d["ms"] for d in player.details()[-TAPS:]])
    told = {"median": round(median, 1), "p95": round(late, 1), "model": round(float(models), 1)}
    print(f"key to frame beyond the model, ms: {told}")
    ARTIFACTS.mkdir(exist_ok=True)
    (ARTIFACTS / "play_latency.json").write_text(json.dumps(told) + "\n")


def test_two_players_a_busy_kernel_and_an_interrupt(
    open_notebook: Callable[[str], NotebookPage], lab: Lab
) -> None:
    busy = "import time; time.sleep(600)"
    notebook = open_notebook(write_notebook(lab.folder, PLAY, "play(player.session.world)", "1"))
    assert notebook.run_all()
    one, two = (Player.on(notebook.page, players(notebook).nth(n)) for n in range(2))
    for player in (one, two):  # both run, in one world
        player.button("run").click()
    for player in (one, two):
        player.wait_for(5)
        player.button("run").click()
        player.wait_until_still()
    assert one.details()[-1]["error"] == two.details()[-1]["error"] == ""

    notebook.page.evaluate(
        "code => { const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;"
        "kernel.requestExecute({ code }); }",
        busy,
    )
    notebook.page.wait_for_timeout(1000)
    one.root.locator(".wp-main canvas").click()
    one.press("ArrowRight")  # while the cell is busy
    notebook.page.evaluate(
        "jupyterapp.shell.currentWidget.sessionContext.session.kernel.interrupt()"
    )
    notebook.page.wait_for_function(KERNEL_IS_IDLE, timeout=PATIENCE)
    one.press("ArrowRight")
    assert one.details()[-1]["error"] == ""


def test_without_anywidget_there_are_buttons(
    open_notebook: Callable[[str], NotebookPage], lab: Lab
) -> None:
    hidden = "import sys; sys.modules['anywidget'] = None"
    notebook = open_notebook(write_notebook(lab.folder, hidden, PLAY))
    assert notebook.run_all()
    assert_no_errors(notebook)
    image = notebook.locate("img.widget-image").first
    start = drawn(image)
    for _ in range(3):  # four steps each
        before = image.get_attribute("src")
        notebook.locate(
            "button",
        ).filter(has_text="→").click()
        notebook.page.wait_for_function(
            "([image, before]) => image.src !== before",
            arg=[image.element_handle(), before],
            timeout=PATIENCE,
        )
    # The last part of the picture is the dream, five times enlarged.
    small = [picture[-320 - 116 : -116 : 5, -320::5][:64, :64] for picture in (start, drawn(image))]
    ARTIFACTS.mkdir(exist_ok=True)
    notebook.page.screenshot(path=ARTIFACTS / "play_buttons.png")
    assert moved(*small) <= -4


def drawn(image: Locator) -> np.ndarray:
    """The picture that an <img> shows, as it was sent: uint8 (H, W, 3)."""
    data = image.evaluate(
        "async image => Array.from(new Uint8Array(await (await fetch(image.src)).arrayBuffer()))"
    )
    return np.asarray(Image.open(io.BytesIO(bytes(data))).convert("RGB"))

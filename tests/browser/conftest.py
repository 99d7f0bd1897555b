"""A real JupyterLab, and pages of it in a real browser.

def test_something(open_notebook):
    page = open_notebook("01_data_sampling_and_splitting.ipynb")   # kernel started, idle
    assert page.run_all()                                          # False if a cell raised
    page.locate("img").first.screenshot(...)                       # Playwright from here on
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright

from tests.conftest import REPOSITORY

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
ARTIFACTS = REPOSITORY / "artifacts"
START_SECONDS, RUN_SECONDS, STOP_SECONDS = 90, 300, 60

SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    # Draw all cells at once, also those that are not in view.
    "notebook-extension/tracker": {"windowingMode": "none"},
}
KERNEL_IS_IDLE = """() => {
    const kernel = window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel;
    return kernel?.status === "idle" && kernel?.connectionStatus === "connected";
}"""


@dataclass(frozen=True)
class Lab:
    """A running server: its address, with a slash at the end, and its secret."""

    url: str
    token: str
    folder: Path

    def request(self, path: str, method: str = "GET") -> bytes:
        headers = {"Authorization": f"token {self.token}"}
        request = urllib.request.Request(self.url + path, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read()


@dataclass(frozen=True)
class NotebookPage:
    """A notebook that is open in JupyterLab, its kernel idle."""

    page: Page

    def run_all(self) -> bool:
        """Runs every cell and waits for the last; False if one raised."""
        self.page.set_default_timeout(1000 * RUN_SECONDS)
        return self.page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")

    def outputs(self) -> list[dict[str, Any]]:
        """The cells' outputs as the notebook would save them."""
        return self.page.evaluate(
            "jupyterapp.shell.currentWidget.model.toJSON().cells.flatMap(c => c.outputs ?? [])"
        )

    def locate(self, selector: str) -> Locator:
        """Elements within the cells' outputs."""
        return self.page.locator(f".jp-Notebook .jp-OutputArea-output {selector}")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium here (Debian: apt install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        yield browser
        browser.close()


@pytest.fixture
def lab(browser: Browser, tmp_path: Path) -> Iterator[Lab]:
    """JupyterLab on a copy of the notebooks, in profile smoke; must stop cleanly, too."""
    folder = tmp_path / "notebooks"
    shutil.copytree(REPOSITORY / "notebooks", folder)
    token = secrets.token_hex(16)
    options = [
        "--no-browser",
        "--allow-root",
        "--expose-app-in-browser",
        "--ServerApp.ip=127.0.0.1",
        "--ServerApp.port=0",
        f"--ServerApp.root_dir={folder}",
        f"--IdentityProvider.token={token}",
    ]
    written = tmp_path / "lab.txt"
    with written.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env=_private_environment(tmp_path),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        lab = Lab(_address(tmp_path / "runtime", process, written), token, folder)
        yield lab
        lab.request("api/shutdown", "POST")
        assert process.wait(STOP_SECONDS) == 0, written.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def open_notebook(browser: Browser, lab: Lab) -> Iterator[Callable[[str], NotebookPage]]:
    """Opens a notebook by its file name."""
    context = browser.new_context(viewport={"width": 1200, "height": 1000})

    def open_it(name: str) -> NotebookPage:
        page = context.new_page()
        page.goto(f"{lab.url}lab/tree/{name}?token={lab.token}")
        page.wait_for_function(KERNEL_IS_IDLE, timeout=1000 * START_SECONDS)
        return NotebookPage(page)

    yield open_it
    context.close()


def _private_environment(folder: Path) -> dict[str, str]:
    """Neither the user's settings nor other servers play a part."""
    settings = folder / "settings"
    for name, content in SETTINGS.items():
        path = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return os.environ | {
        "WORKSHOP_PROFILE": "smoke",
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "IPYTHONDIR": str(folder / "ipython"),
    }


def _address(runtime: Path, process: subprocess.Popen[bytes], written: Path) -> str:
    """Where the server listens, as soon as it does."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        for path in runtime.glob("jpserver-*.json"):
            try:
                address = json.loads(path.read_text())["url"]
                urllib.request.urlopen(f"{address}api", timeout=2)
            except (ValueError, OSError):  # half written, or not listening yet
                continue
            return address
        time.sleep(0.2)
    pytest.fail(f"JupyterLab did not start:\n{written.read_text()}")

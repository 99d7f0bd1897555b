"""The first cell of every notebook: profile, device, simulator, paths; and the episode browser."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPOSITORY
from workshop_lib import notebook
from workshop_lib.data.game import available_backends
from workshop_lib.errors import WorkshopError
from workshop_lib.media.overlay import draw_keys
from workshop_lib.notebook import browse, find_repository, start

MINUTES = {"smoke": 0.5, "cpu": 1, "gpu": 2}


@pytest.mark.parametrize(("name", "says"), [("smoke", "30 seconds"), ("cpu", "1 minute ")])
def test_profile_from_the_environment(
    name: str, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORKSHOP_PROFILE", name)
    profile = start("07", MINUTES)
    said = capsys.readouterr().out
    assert f"Notebook 07, profile {name}: computes about {says}" in said
    assert profile.name == name and profile.device == "cpu"
    assert profile.simulator == next(iter(available_backends()), None)
    assert (profile.simulator or "no simulator") in said
    assert (profile.sample / "hard" / "manifest.json").is_file()


def test_without_the_variable_the_machine_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.delenv("WORKSHOP_PROFILE", raising=False)
    assert start("01", MINUTES).name == ("gpu" if torch.cuda.is_available() else "cpu")


def test_wrong_profile_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKSHOP_PROFILE", "fast")
    with pytest.raises(WorkshopError, match="WORKSHOP_PROFILE is 'fast': set it to one of smoke"):
        start("01", MINUTES)


def test_pick_takes_the_size_of_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    picked = {}
    for name in ("smoke", "cpu", "gpu"):
        monkeypatch.setenv("WORKSHOP_PROFILE", name)
        profile = start("01", MINUTES)
        picked[name] = (profile.pick(1, 2), profile.pick(smoke=1, cpu=2, gpu=3))
    assert picked == {"smoke": (1, 1), "cpu": (2, 2), "gpu": (2, 3)}


def test_repository_is_found_from_a_folder_within_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package may be installed elsewhere: then the current folder counts."""
    monkeypatch.setattr(notebook, "__file__", str(tmp_path / "site-packages" / "notebook.py"))
    monkeypatch.chdir(REPOSITORY / "notebooks")
    assert find_repository() == REPOSITORY
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorkshopError, match=r"data/sample is not to be found .*git checkout"):
        find_repository()


def test_browsing_shows_the_frame_of_the_slider() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    actions = np.array([7, 8, 1, 4, 5])
    picture, controls = browse(frames, actions, scale=3).children
    _, slider = controls.children
    expected = draw_keys(frames, actions, 3, [f"frame {t}" for t in range(5)])
    for t in (0, 3, 4, 1):
        slider.value = t
        shown = np.asarray(Image.open(io.BytesIO(picture.value)))
        assert np.array_equal(shown, expected[t])
    assert slider.max == 4

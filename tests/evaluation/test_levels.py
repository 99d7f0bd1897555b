"""Long dreams whose levels end: they go on inventing level where others stand before a wall."""

import json

import pytest

from tests.conftest import SAMPLE
from workshop_lib.cli import main
from workshop_lib.pretrained.measured import read_report


@pytest.mark.slow
def test_with_ends_a_dream_goes_on(tmp_path) -> None:
    """The shipped world of tokens, running and jumping: without ends it comes to the last wall of
    its level; with them it gets coins, and new level keeps coming in."""
    common = [f"--data={SAMPLE / 'easy'}", "--long=240"]
    ends = [*common, f"--out={tmp_path / 'ends'}"]
    none = [*common, "--clips=2", "--horizon=8", f"--out={tmp_path / 'none'}"]
    assert main(["evaluate", "levels", "dynamics-tiny", *ends]) == 0
    assert main(["evaluate", "world", "dynamics-tiny", *none]) == 0
    report = json.loads((tmp_path / "ends" / "report.json").read_text())
    without = json.loads((tmp_path / "none" / "report.json").read_text())
    assert report["coins"]["run and jump"] > 1
    fresh, stuck = (each["drift"]["run and jump"]["fresh"] for each in (report, without))
    assert fresh > 1.3 * stuck
    assert report["drift"]["run and jump"]["alive"] > 0.6
    assert read_report(tmp_path / "ends" / "report.json")[0] == "levels"
    assert (tmp_path / "ends" / "long-run-and-jump.mp4").is_file()


def test_what_cannot_say_when_a_level_ends_is_refused(capsys) -> None:
    options = ["dynamics-tiny", f"--data={SAMPLE / 'easy'}", "--termination=lam-tiny"]
    assert main(["evaluate", "levels", *options]) == 1
    assert "holds a latent_action, not a termination" in capsys.readouterr().err

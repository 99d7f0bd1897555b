"""Long dreams whose levels end: they go on inventing level where others stand before a wall."""

import json

import pytest
import torch

from tests.conftest import SAMPLE
from tests.endings import Ends
from workshop_lib.cli import main
from workshop_lib.data.actions import JUMP, RIGHT
from workshop_lib.evaluation.drift import long_play, measure_drift
from workshop_lib.evaluation.heldout import heldout_episodes
from workshop_lib.evaluation.levels import Counting
from workshop_lib.models.termination import OVER
from workshop_lib.pretrained.measured import read_report
from workshop_lib.worlds.ending_world import EndingWorld
from workshop_lib.worlds.opening import open_world


@pytest.mark.slow
def test_with_ends_a_dream_goes_on(tmp_path) -> None:
    """The shipped world of tokens, running and jumping from the beginning of levels: without ends
    it comes to their last wall; with them it gets coins, and new level keeps coming in."""
    ends = [f"--data={SAMPLE / 'easy'}", "--long=240", f"--out={tmp_path / 'ends'}"]
    assert main(["evaluate", "levels", "dynamics-tiny", *ends]) == 0
    report = json.loads((tmp_path / "ends" / "report.json").read_text())
    assert report["coins"]["run and jump"] > 1
    clip = heldout_episodes(SAMPLE / "easy", "test", 8, 8, beginnings=True)
    pressed = long_play(8, 240)["run and jump"]
    stuck, _ = measure_drift(
        open_world("dynamics-tiny"), clip.frames, clip.actions[:, :-1], pressed
    )
    assert report["drift"]["run and jump"]["fresh"] > 1.3 * stuck.fresh
    assert report["drift"]["run and jump"]["alive"] > 0.6
    assert read_report(tmp_path / "ends" / "report.json")[0] == "levels"
    assert (tmp_path / "ends" / "long-run-and-jump.mp4").is_file()


def test_a_world_that_looks_far_back_begins_levels_too() -> None:
    """The transformer sees 22 frames, the prompt has 8: before them the player stood still. So one
    of two dreams can begin anew, and is then where it began."""
    clip = heldout_episodes(SAMPLE / "easy", "test", 2, 8, beginnings=True)
    world = Counting(EndingWorld(open_world("diffusion-tiny"), Ends()))
    state = begun = world.begin(clip.frames, clip.actions[:, :-1])
    for keys in ([RIGHT, RIGHT], [RIGHT, JUMP]):
        frame, state = world.step(state, torch.tensor(keys))
    assert state.ended.tolist() == [0, OVER] and world.counts.tolist() == [3, 0, 1]
    assert torch.equal(frame[1], clip.frames[1, -1])
    assert torch.equal(state.dream.frames[1], begun.dream.frames[1])
    assert not torch.equal(state.dream.frames[0], begun.dream.frames[0])


def test_what_cannot_say_when_a_level_ends_is_refused(capsys) -> None:
    options = ["dynamics-tiny", f"--data={SAMPLE / 'easy'}", "--termination=lam-tiny"]
    assert main(["evaluate", "levels", *options]) == 1
    assert "holds a latent_action, not a termination" in capsys.readouterr().err

"""Counterfactual accuracy of worlds whose answer is known."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import SAMPLE
from tests.evaluation.worlds import ALWAYS_RIGHT, Oracle, ScrollWorld
from workshop_lib.data.actions import LEFT, NUM_ACTIONS, RIGHT
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.control import evaluate, measure_control, nearer, write_report
from workshop_lib.evaluation.shift import scroll
from workshop_lib.evaluation.starts import save_starts
from workshop_lib.models.files import save_model
from workshop_lib.models.next_frame import NextFrame, NextFrameConfig
from workshop_lib.worlds.copy_world import CopyWorld


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "next_frame.safetensors"
    config = NextFrameConfig(width=16, depth=1, middle=2, cond_dim=32)
    save_model(NextFrame(config), "next_frame", path, {})
    return str(path)


def test_the_real_game_is_always_right(starts):
    report, dreamed = measure_control(Oracle(starts), starts)
    assert torch.equal(dreamed, starts.branches)
    assert [at.horizon for at in report.at] == [1, 4, 8, 12]
    for at in report.at[1:]:
        assert at.accuracy["left/right"].mean == at.accuracy["jump/nothing"].mean == 1
        assert at.accuracy["left/right"].low > 0.8  # 24 starts: no more can be said
        assert at.gain.mean == pytest.approx(1) and at.gain.interval == pytest.approx(0, abs=1e-9)
        assert at.within2.mean == 1 and at.psnr.mean == 60 > 20 > at.copy_psnr.mean


def test_copying_knows_nothing(starts):
    report, _ = measure_control(CopyWorld(), starts)
    for at in report.at:
        assert {answer.mean for answer in at.accuracy.values()} == {0.5}
        assert at.gain.mean == 0 and at.psnr == at.copy_psnr
        assert at.accuracy["left/right"].low < 0.4 and at.accuracy["left/right"].high > 0.6
    assert report.at[-1].within2.mean < 0.6


def test_a_world_that_hears_nothing_is_at_chance_however_real_it_looks(starts):
    report, _ = measure_control(Oracle(starts, keys=ALWAYS_RIGHT), starts, horizons=(8,))
    assert report.at[0].accuracy["left/right"].mean == 0.5
    assert report.at[0].gain.mean == 0
    assert 0.4 < report.at[0].within2.mean < 0.8  # always right about RIGHT


def test_exchanged_keys_are_always_wrong(starts):
    keys = torch.arange(NUM_ACTIONS)
    keys[LEFT], keys[RIGHT] = RIGHT, LEFT
    report, _ = measure_control(Oracle(starts, keys), starts, horizons=(8,))
    at = report.at[0]
    assert at.accuracy["left/right"].mean == 0 and at.gain.mean == pytest.approx(-1)
    assert at.accuracy["jump/nothing"].mean == 1


def test_the_gain_says_by_how_much_it_is_scrolled(starts):
    now = starts.frames[:, -1]
    ends = [scroll(now, starts.branches[:, k, 7])[:, 0].float().mean() for k in (0, 1)]
    for speed in (0, 1, 2):
        at = measure_control(ScrollWorld(speed), starts, horizons=(8,))[0].at[0]
        # 8 frames of `speed` pixels to either side
        assert at.gain.mean == pytest.approx(float(16 * speed / (ends[0] - ends[1])), rel=0.05)


def test_only_starts_whose_truths_differ_count():
    a, b = torch.zeros(3, 2, 8, 8, 3, dtype=torch.uint8).unbind(1)
    real = torch.stack([a, b + torch.tensor([0, 100, 100]).byte()[:, None, None, None]], dim=1)
    dreamed = real.clone()
    dreamed[2, 1] = 0  # the third start's second dream is the first truth
    assert nearer(real, dreamed).tolist() == [1.0, 0.5]


def test_horizons_that_were_not_recorded_are_left_out(starts):
    thin = starts.thinned(prompt=4, horizons=(4, 8))
    report, dreamed = measure_control(CopyWorld(), thin)
    assert [at.horizon for at in report.at] == [4, 8] and dreamed.shape[2] == 8
    assert report.prompt == 4
    with pytest.raises(WorkshopError, match="none of"):
        measure_control(CopyWorld(), thin, horizons=(12,))


def test_worlds_without_the_games_keys_are_refused(starts):
    world = CopyWorld()
    world.num_actions = 6
    with pytest.raises(WorkshopError, match="6 actions, not the game's 15 keys"):
        measure_control(world, starts)


def test_the_command_measures_with_recorded_starts(starts, model, tmp_path, capsys):
    save_starts(tmp_path / "starts.npz", starts)
    out = tmp_path / "out"
    report = evaluate(model, starts=8, starts_file=str(tmp_path / "starts.npz"), out=str(out))
    printed = capsys.readouterr().out
    assert "8 moments of easy levels" in printed and "left/right" in printed
    written = json.loads((out / "control.json").read_text())
    assert (
        written["at"][2]["accuracy"]["left/right"]["mean"]
        == report.at[2].accuracy["left/right"].mean
    )
    for name in ("control.png", "counterfactuals.png"):
        assert len(Image.open(out / name).convert("RGB").getcolors(1 << 24)) > 20


def test_the_command_records_what_it_collects(model, tmp_path):
    path = tmp_path / "new.npz"
    first = evaluate(model, starts=3, starts_file=str(path), seed=3)
    assert path.is_file() and evaluate(model, starts=3, starts_file=str(path)).at == first.at


def test_the_command_measures_on_recordings_alone(model, tmp_path):
    report = evaluate(model, data=str(SAMPLE / "easy"), starts=4, out=str(tmp_path))
    assert report.stretches > 1 and json.loads((tmp_path / "stretches.json").read_text())


def test_the_sheet_shows_the_real_game_above_the_dream(starts, tmp_path):
    report, dreamed = measure_control(CopyWorld(), starts)
    write_report(tmp_path, report, starts, dreamed)
    sheet = torch.tensor(np.asarray(Image.open(tmp_path / "counterfactuals.png")))
    now, after_4 = (sheet[4 : 4 + 128 : 2, x : x + 128 : 2] for x in (4, 4 + 132))
    assert torch.equal(now, starts.frames[0, -1])
    assert torch.equal(after_4, starts.branches[0, 0, 3])


def test_how_a_world_dreams_is_written_down(diffusion, starts, tmp_path):
    moments = str(tmp_path / "starts.npz")
    save_starts(moments, starts[:4])
    found = []
    for number, how in enumerate(({}, {"sampler": "dpm"}, {"guidance": 2.0})):
        out = tmp_path / str(number)
        report = evaluate(diffusion, starts_file=moments, out=str(out), **how)
        written = json.loads((out / "control.json").read_text())
        assert {**written["options"], **how} == written["options"] == report.options
        found.append(report.at)
    assert found[0] != found[1] != found[2] != found[0]

    evaluate(diffusion, data=str(SAMPLE / "easy"), starts=4, sampler="dpm", out=str(tmp_path))
    assert json.loads((tmp_path / "stretches.json").read_text())["options"]["sampler"] == "dpm"

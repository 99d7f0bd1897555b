"""`workshop evaluate world`, on a world that has learned nothing yet."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import SAMPLE
from workshop_lib.cli import main
from workshop_lib.data.shards import open_shard, read_all
from workshop_lib.data.splits import split_shards
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.heldout import heldout_episodes
from workshop_lib.evaluation.world import evaluate
from workshop_lib.media.video import read_video
from workshop_lib.models.files import save_model
from workshop_lib.models.next_frame import NextFrame, NextFrameConfig


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "next_frame.safetensors"
    config = NextFrameConfig(width=16, depth=1, middle=2, cond_dim=32)
    save_model(NextFrame(config), "next_frame", path, {})
    return str(path)


def test_the_command_writes_tables_pictures_and_videos(model, tmp_path, capsys):
    report = evaluate(
        model, data=str(SAMPLE / "easy"), clips=6, horizon=5, long=20, out=str(tmp_path)
    )
    printed = capsys.readouterr().out
    assert "6 clips after 8 frames of prompt" in printed and "right held: 20 steps" in printed
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["rollout"]["at"][4]["psnr"]["mean"] == report.rollout.at[4].psnr.mean
    assert set(written["drift"]) == {"right held", "run and jump", "mixed keys"}
    assert len((tmp_path / "horizons.csv").read_text().splitlines()) == 6
    for name in ("horizons.png", "comparison.png"):
        assert len(Image.open(tmp_path / name).convert("RGB").getcolors(1 << 24)) > 20
    assert len(read_video(tmp_path / "rollout.mp4")) == 13
    assert len(read_video(tmp_path / "long-right-held.mp4")) == 20


def test_equal_seeds_give_equal_reports(model):
    runs = [
        evaluate(model, data=str(SAMPLE / "easy"), clips=4, horizon=2, long=0, seed=seed)
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_how_a_world_dreams_changes_its_figures_and_is_written_down(diffusion, tmp_path):
    usual = {"steps": 3, "sampler": "ddim", "guidance": 1.0, "seed": 0}
    found = {}
    for name, how in {
        "as it is": {},
        "named": {"sampler": "ddim"},
        "dpm": {"sampler": "dpm"},
        "guided": {"guidance": 3.0},
        "hurried": {"steps": 1},
    }.items():
        out = tmp_path / name
        evaluate(
            diffusion, data=str(SAMPLE / "easy"), clips=3, horizon=2, long=0, out=str(out), **how
        )
        found[name] = json.loads((out / "report.json").read_text())["rollout"]
        assert found[name].pop("options") == {**usual, **how}
    assert found.pop("named") == found["as it is"]
    assert len({json.dumps(figures) for figures in found.values()}) == 4


@pytest.mark.parametrize("option", ["steps 2", "temperature 0.5", "sampler dpm", "guidance 2"])
def test_an_option_that_the_world_does_not_have_is_named(model, option, capsys):
    name, value = option.split()
    what = ["evaluate", "world", model, "--data", str(SAMPLE / "easy"), f"--{name}", value]
    assert main(what) == 1
    said = capsys.readouterr().err
    assert f"a next_frame world has no option '{name}'; it has none" in said
    assert said.count("\n") == 1


def test_levels_do_not_repeat_as_long_as_there_are_others():
    shard = split_shards(SAMPLE / "easy", "test")[0]
    episodes = [e for e in read_all(open_shard(shard)) if len(e) >= 24]
    levels = {episode.level_seed for episode in episodes}
    assert len(levels) < len(episodes)  # some levels were played twice

    level_of = {f.tobytes(): e.level_seed for e in episodes for f in e.frames}
    clip = heldout_episodes(SAMPLE / "easy", "test", len(levels), 24)
    assert {level_of[frames[12].numpy().tobytes()] for frames in clip.frames} == levels
    assert len(heldout_episodes(SAMPLE / "easy", "test", 999, 24)) == len(episodes)


def test_clips_are_real_stretches_with_their_actions():
    clip = heldout_episodes(SAMPLE / "easy", "test", 5, 20, seed=4)
    assert clip.frames.shape == (5, 20, 64, 64, 3) and (clip.actions >= 0).all()
    assert torch.equal(clip.frames, heldout_episodes(SAMPLE / "easy", "test", 5, 20, seed=4).frames)
    other = heldout_episodes(SAMPLE / "easy", "test", 5, 20, seed=5)
    assert not torch.equal(clip.frames, other.frames)
    changes = (clip.frames[:, 1:].float() - clip.frames[:, :-1].float()).abs().mean(dim=(2, 3, 4))
    assert np.median(changes) < 40  # neighbors in time, not frames from anywhere


def test_asked_for_beginnings_every_clip_is_of_a_levels_first_frames():
    shard = split_shards(SAMPLE / "easy", "test")[0]
    episodes = [e for e in read_all(open_shard(shard)) if len(e) >= 24]
    begun = [e for e in episodes if e.first[0]]
    assert len(begun) < len(episodes)  # some are the later part of a long one
    clip = heldout_episodes(SAMPLE / "easy", "test", 999, 24, beginnings=True)
    shown = {frames.numpy().tobytes() for frames in clip.frames}
    assert shown == {e.frames[:24].tobytes() for e in begun}


def test_horizons_that_no_episode_reaches_are_refused(model):
    with pytest.raises(WorkshopError, match="ask for a shorter horizon"):
        evaluate(model, data=str(SAMPLE / "easy"), horizon=500)

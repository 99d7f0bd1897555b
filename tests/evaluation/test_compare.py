"""`workshop evaluate worlds`: worlds side by side, on the same clips and moments."""

import csv
import json

import pytest
import torch
from PIL import Image

from tests.conftest import SAMPLE
from tests.evaluation.worlds import ScrollWorld
from workshop_lib.data.actions import RIGHT
from workshop_lib.data.clip import Clip
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.compare import COPY, Comparison, compare_one, evaluate
from workshop_lib.evaluation.control import evaluate as evaluate_control
from workshop_lib.evaluation.starts import save_starts
from workshop_lib.evaluation.world import evaluate as evaluate_world
from workshop_lib.models.files import save_model
from workshop_lib.models.next_frame import NextFrame, NextFrameConfig
from workshop_lib.worlds.copy_world import CopyWorld

EASY = str(SAMPLE / "easy")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    net = NextFrame(NextFrameConfig(width=16, depth=1, middle=2, cond_dim=32))
    torch.nn.init.normal_(net.net.head.weight, std=0.02)  # untrained, it copies
    path = tmp_path_factory.mktemp("run") / "my-run" / "version_0" / "model.safetensors"
    save_model(net, "next_frame", path, {})
    return str(path)


def test_each_world_has_the_figures_of_its_own_report(model, starts, tmp_path, capsys):
    moments = str(tmp_path / "starts.npz")
    save_starts(moments, starts)
    out = tmp_path / "report"
    how = dict(data=EASY, clips=6, horizon=9)
    report = evaluate(f"{model}, {model}", starts_file=moments, long=20, out=str(out), **how)
    assert [world.name for world in report.worlds] == ["my-run", "my-run", COPY]
    alone = evaluate_world(model, long=20, **how)
    assert report.worlds[0].rollout == alone.rollout
    assert report.worlds[0].drift == alone.drift
    assert report.worlds[0].control == evaluate_control(model, starts_file=moments)
    copied = report.worlds[2].rollout.at[3]
    assert copied.psnr == copied.copy_psnr != alone.rollout.at[3].psnr

    assert report.table() in capsys.readouterr().out
    with open(out / "worlds.csv") as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["PSNR at 1, dB"]) == pytest.approx(alone.rollout.at[0].psnr.mean, abs=0.06)
    assert rows[2]["left/right"] == "50.0%"
    assert len(json.loads((out / "worlds.json").read_text())["worlds"]) == 3
    assert (out / "worlds.md").read_text().count("\n") == 5
    for name in ("worlds.png", "worlds-sheet.png"):
        assert len(Image.open(out / name).convert("RGB").getcolors(1 << 24)) > 20


def test_the_world_that_is_right_comes_out_best():
    """Pictures that scroll left under RIGHT, dreamed by a world that does and one that does not."""
    generator = torch.Generator().manual_seed(0)
    still = torch.randint(0, 256, (4, 64, 64, 3), dtype=torch.uint8, generator=generator)
    frames = torch.stack([still.roll(-t, dims=2) for t in range(20)], dim=1)
    clip = Clip(frames, torch.full((4, 20), RIGHT), torch.zeros(4, 20, dtype=torch.bool))
    worlds = {"moves": ScrollWorld(), COPY: CopyWorld()}
    found = {name: compare_one(name, world, clip, long=16)[0] for name, world in worlds.items()}
    assert found["moves"].rollout.at[7].psnr.mean > found[COPY].rollout.at[7].psnr.mean + 20
    assert found["moves"].row()["fresh, right held"] == "100%"
    assert found[COPY].row()["fresh, right held"] == "0%"
    table = Comparison(tuple(found.values())).rows()
    assert "left/right" not in table[0] and [row[0] for row in table[1:]] == ["moves", COPY]


def test_each_world_takes_the_options_that_it_has(model, diffusion, tmp_path):
    how = dict(data=EASY, clips=3, horizon=2, long=0)
    report = evaluate(f"{model},{diffusion}", sampler="dpm", guidance=2.0, out=str(tmp_path), **how)
    alone = evaluate_world(diffusion, sampler="dpm", guidance=2.0, **how)
    assert report.worlds[1].rollout == alone.rollout != evaluate_world(diffusion, **how).rollout
    written = json.loads((tmp_path / "worlds.json").read_text())["worlds"]
    told = {"steps": 3, "sampler": "dpm", "guidance": 2.0, "seed": 0}
    assert [world["rollout"]["options"] for world in written] == [{}, told, {}]
    with pytest.raises(WorkshopError, match="no option 'temperature' in any of these worlds"):
        evaluate(f"{model},{diffusion}", temperature=0.5, **how)


def test_what_is_no_world_is_refused(model, tmp_path):
    with pytest.raises(WorkshopError, match="name at least one"):
        evaluate(" , ", data=EASY)
    with pytest.raises(WorkshopError, match=r"nowhere\.safetensors"):
        evaluate(f"{tmp_path}/nowhere.safetensors,{model}", data=EASY, clips=2, horizon=2)

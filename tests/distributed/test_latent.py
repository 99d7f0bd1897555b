"""A dynamics driven by latent actions, on one process and on two."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import SAMPLE
from tests.distributed.running import KEEPING, logged, train
from workshop_lib.data.shards import find_shards, open_shard
from workshop_lib.data.splitting import split
from workshop_lib.data.writer import ShardWriter
from workshop_lib.models.files import load_model, read_metadata, save_model
from workshop_lib.models.latent_action import LatentActionModel
from workshop_lib.models.latent_driven import check_lam
from workshop_lib.training.live import from_recipe

GRAYS = 8
SMALL = [
    "-c", "dynamics/latent", "--model.dim=16", "--model.depth=1", "--model.window=2",
    f"--model.num_codes={GRAYS}", f"--model.code_factors=[{GRAYS}]", "--data.lanes=4",
    "--data.batch_size=4", "--data.val_batches=1", "--data.path=tokens", "--optim.warmup=2",
    "--trainer.max_steps=4", "--trainer.log_every_n_steps=1", "--preview_every=0",
]  # fmt: skip
TWO = ("--standalone", "--nproc_per_node=2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With tokens/, some real episodes whose tokens are the grays of 8x8 pixels."""
    folder = tmp_path_factory.mktemp("latent")
    for name in ("train", "val", "test"):
        source = open_shard(find_shards(SAMPLE / "easy" / name)[0])
        with ShardWriter(folder / "tokens" / name / "0.npz") as writer:
            for index in range(4):
                episode = source.read(index)
                gray = episode.frames.reshape(-1, 8, 8, 8, 8, 3).mean(axis=(2, 4, 5))
                writer.write(replace(episode, tokens=(gray * GRAYS / 256).astype(np.uint16)))
    split(str(folder / "tokens"))
    return folder


def test_driven_by_finished_latent_actions_it_trains_as_one_process_does(folder: Path) -> None:
    torch.manual_seed(0)
    lam, _ = from_recipe("lam/tiny")
    save_model(lam, "latent_action", folder / "lam.safetensors", {})
    # A part with one clip of two frames is masked as a whole: then there is no chance in it.
    options = ["--lam=lam.safetensors", "--data.length=2", "--data.micro_batch=1",
               "--model.corrupt=0", "--model.masked_past=0"]  # fmt: skip
    train(folder, *SMALL, *options, "--name=one")
    train(folder, *SMALL, *options, "--name=two", torchrun=TWO)
    one, two = (folder / "runs" / name / "version_0" for name in ("one", "two"))
    expected, got = logged(one), logged(two)
    losses = [key for key in expected if key[0] == "train/loss"]
    assert len(losses) == 4 and expected.keys() == got.keys()
    for key in losses:
        assert float(got[key]) == pytest.approx(float(expected[key]), rel=1e-5), key
    weights = [load_model(run / "model.safetensors").state_dict() for run in (one, two)]
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-3, atol=1e-5)


def test_where_both_learn_two_processes_keep_the_same_weights(folder: Path) -> None:
    """And the same codes: what process 1 saw moved them, too."""
    options = ["--lam=lam/tiny", "--joint=true", "--data.length=4", "--name=joint"]
    train(folder, *SMALL, *options, torchrun=TWO, program=KEEPING)
    run = folder / "runs/joint/version_0"
    values = {name: float(value) for (name, _), value in logged(run).items()}
    assert {"train/loss", "train/lam_psnr"} <= values.keys()
    assert all(math.isfinite(value) for value in values.values())
    kept = [torch.load(folder / f"weights-{rank}.pt") for rank in (0, 1)]
    # Statistics of a batch are those of a process's share; process 0's count, and are saved.
    own = ("lam.code.mean", "lam.code.variance")
    for name in kept[0].keys() - set(own):
        assert torch.equal(kept[0][name], kept[1][name]), name
    assert not torch.equal(kept[0][own[0]], kept[1][own[0]])  # they did see different clips
    lam = load_model(run / "lam.safetensors")
    assert isinstance(lam, LatentActionModel)
    check_lam(read_metadata(run / "model.safetensors"), lam, "lam.safetensors")
    before, _ = from_recipe("lam/tiny")
    assert not torch.equal(lam.code.mean, before.code.mean)

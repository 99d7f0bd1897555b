"""One recipe on one process, and dealt out to two (`--trainer.strategy fsdp`)."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from tests.conftest import SAMPLE
from tests.distributed.running import finish, free_port, logged, start, train, wait_for, workers
from workshop_lib.data.clip import Clip
from workshop_lib.models.files import load_model
from workshop_lib.training.cluster import leave
from workshop_lib.training.live import from_recipe
from workshop_lib.training.optim import OptimConfig, make_optimizer
from workshop_lib.training.sharded import deal_out, put_together
from workshop_lib.training.stopping import NOT_FINISHED

# A transformer, without chance, whose gradients are clipped in every step.
SMALL = {"dim": 32, "depth": 2, "heads": 2, "latent_dim": 16, "window": 4}
TRANSFORMER = [
    "-c", "tokenizer/full", *(f"--model.{key}={value}" for key, value in SMALL.items()),
    "--model.quantizer.kind=fsq", "--data.length=4", "--data.batch_size=8",
    f"--data.path={SAMPLE / 'easy'}", "--data.val_batches=1", "--optim.warmup=2",
    "--optim.schedule=constant", "--optim.clip=0.05", "--trainer.log_every_n_steps=1",
    "--trainer.val_check_interval=2",
]  # fmt: skip
FSDP = ["--trainer.devices=2", "--trainer.strategy=fsdp"]


@pytest.mark.slow
def test_dealt_out_it_trains_as_one_process_does_and_goes_on(tmp_path: Path) -> None:
    """Each takes its half of a batch in two parts; stopped after 3 steps, then on to 5."""
    train(tmp_path, *TRANSFORMER, "--trainer.max_steps=5", "--name=one")
    options = (*FSDP, "--data.micro_batch=2", "--activation_checkpointing=true", "--name=two")
    train(tmp_path, *TRANSFORMER, *options, "--preview_every=2", "--trainer.max_steps=3")
    one, two = (tmp_path / "runs" / name / "version_0" for name in ("one", "two"))
    train(tmp_path, two.relative_to(tmp_path), "--trainer.max_steps=5")

    expected, got = logged(one), logged(two)
    assert [n for name, n in got if name == "train/loss"] == list(range(5))
    for key in expected:
        if key[0] in ("train/loss", "val/loss", "val/psnr"):
            assert float(got[key]) == pytest.approx(float(expected[key]), rel=1e-5), key
    stored = [torch.load(run / "checkpoints/last.ckpt", weights_only=True) for run in (one, two)]
    for part in ("state_dict", "current_model_state", "averaging_state", "optimizer_states"):
        torch.testing.assert_close(stored[1][part], stored[0][part], rtol=1e-3, atol=1e-5)
    assert (two / "previews/step-0000002.png").is_file()
    finished = [load_model(run / "model.safetensors").state_dict() for run in (one, two)]
    torch.testing.assert_close(finished[1], finished[0], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_sigterm_saves_one_whole_file_from_which_one_process_goes_on(tmp_path: Path) -> None:
    options = (*FSDP, "--checkpoint_every=2", "--trainer.max_steps=100000", "--name=two")
    run = start(tmp_path, *TRANSFORMER, *options, "--trainer.val_check_interval=100000")
    folder = tmp_path / "runs/two/version_0"
    wait_for((folder / "checkpoints/step-0000002.ckpt").exists, run)
    os.kill(workers(run)[1], signal.SIGTERM)  # only one of them is told
    (said,) = finish(run)
    assert run.returncode == NOT_FINISHED, said
    (step,) = map(int, re.findall(r"saved after step (\d+); `workshop fit runs/two", said))
    assert not (folder / "model.safetensors").exists()
    more = f"--trainer.max_steps={step + 2}"
    train(tmp_path, folder.relative_to(tmp_path), more, "--trainer.devices=1")
    assert [n for name, n in logged(folder) if name == "train/loss"] == list(range(step + 2))
    assert (folder / "model.safetensors").is_file()


def test_each_process_keeps_half_of_everything(tmp_path: Path) -> None:
    port = free_port()
    torch.multiprocessing.spawn(_train_a_half, args=(port, tmp_path), nprocs=2)
    plain, clip = _model_and_clip()
    optimizer = make_optimizer(plain, OptimConfig())
    plain.loss(clip)[0].backward()
    optimizer.step()
    torch.testing.assert_close(torch.load(tmp_path / "whole.pt"), plain.state_dict())


def _model_and_clip():
    torch.manual_seed(0)
    model, _ = from_recipe("tokenizer/full", **SMALL, quantizer={"kind": "fsq"})
    frames = torch.randint(0, 256, (2, 4, 64, 64, 3), dtype=torch.uint8)
    nothing = torch.zeros(2, 4, dtype=torch.int64)
    return model.train(), Clip(frames, nothing, nothing.bool())


def _train_a_half(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://localhost:{port}", rank=rank, world_size=2)
    model, clip = _model_and_clip()
    total = sum(p.numel() for p in model.parameters())
    loss = deal_out(model, init_device_mesh("cpu", (2,)))
    optimizer = make_optimizer(model, OptimConfig())
    loss(clip[rank : rank + 1])[0].backward()
    optimizer.step()
    moments = [m for state in optimizer.state.values() for m in state.values()]
    shares = [*model.parameters(), *(p.grad for p in model.parameters()), *moments]
    kept = sum(s.to_local().numel() for s in shares if isinstance(s, DTensor))
    assert all(isinstance(p, DTensor) for p in model.parameters())
    assert kept <= 0.51 * 4 * total  # weights, gradients and two moments
    whole = put_together(model.state_dict())
    if rank == 0:
        torch.save(whole, folder / "whole.pt")
    leave(0)

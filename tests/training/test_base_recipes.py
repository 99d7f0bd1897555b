"""The recipes for a GPU train on a CPU, too: as they are written, but for data, batch and steps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY, SAMPLE
from workshop_lib.cli import main
from workshop_lib.data.clips import ClipConfig, fixed_clips
from workshop_lib.data.splits import split_shards
from workshop_lib.errors import WorkshopError
from workshop_lib.models.files import load_model
from workshop_lib.pretrained import load_pretrained
from workshop_lib.training.export import export
from workshop_lib.worlds.opening import open_world

RECIPES = sorted(
    f"{path.parent.name}/{path.stem}"
    for path in (REPOSITORY / "workshop_lib" / "configs").glob("*/*base*.yaml")
)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    """The hard sample as tokens of the shipped tokenizer."""
    folder = tmp_path_factory.mktemp("encoded") / "hard-tokens"
    options = ["--tokenizer=tokenizer-base", f"--data={SAMPLE / 'hard'}", f"--out={folder}"]
    assert main(["encode", *options]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_base_recipe_trains_and_its_file_works(recipe, request, tmp_path, monkeypatch) -> None:
    """Two steps move its weights, and what is written plays, or says what it sees."""
    data = request.getfixturevalue("tokens") if recipe == "dynamics/base" else SAMPLE / "hard"
    monkeypatch.chdir(tmp_path)
    options = [
        "-c", recipe, f"--data.path={data}", "--data.batch_size=2", "--data.lanes=2",
        "--data.val_batches=1", "--optim.warmup=1", "--optim.ema=0", "--preview_every=0",
        "--optim.weight_decay=0",  # so that only a gradient moves a weight
    ]  # fmt: skip
    assert main(["fit", *options, "--trainer.max_steps=2", "--checkpoint_every=1"]) == 0
    run = f"runs/{recipe.replace('/', '-')}/version_0"
    before = export(run, "before.safetensors", "step-0000001.ckpt")
    file = f"{run}/model.safetensors"
    first, model = load_model(before).state_dict(), load_model(file)
    weights = dict(model.named_parameters())
    moved = [name for name, weight in weights.items() if not first[name].equal(weight)]
    assert len(moved) > len(weights) / 4  # many blocks begin at zero, and wait for their heads
    assert all(weight.isfinite().all() for weight in weights.values())

    shards = split_shards(SAMPLE / "hard", "val")
    clip = next(iter(fixed_clips(shards, ClipConfig(length=6, batch_size=2, lanes=2), 1)))
    family = recipe.split("/")[0]
    if family == "tokenizer":
        again = model.reconstruct(clip.frames)
        assert again.shape == clip.frames.shape and again.float().std() > 1
    elif family == "lam":
        codes = model.infer(clip.frames)
        assert codes.shape == (2, 5) and codes.min() >= 0 and codes.max() < model.num_codes
    else:
        world = open_world(file)
        state = world.begin(clip.frames[:, :5], clip.actions[:, :4])
        frame, _ = world.step(state, torch.tensor([7, 1]))
        assert frame.shape == clip.frames[:, 0].shape and frame.float().std() > 1
    if recipe == "next_frame/base":  # it may say through which tokenizer it dreams
        through = export(run, "through.safetensors", repeater="tokenizer-base")
        plain, repeated = open_world(through, tokenizer="none"), open_world(through)
        assert torch.equal(plain.step(state, torch.tensor([7, 1]))[0], frame)
        again = load_pretrained("tokenizer-base").reconstruct(frame[:, None])[:, 0]
        shown = repeated.step(state, torch.tensor([7, 1]))[0]
        assert (shown.float() - again.float()).abs().mean() < 1  # packed, it rounds otherwise
    elif family in ("tokenizer", "lam", "dynamics"):
        with pytest.raises(WorkshopError, match=r"--repeater is for next_frame, diffusion_unet"):
            export(run, "through.safetensors", repeater="tokenizer-base")

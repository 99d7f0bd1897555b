"""A model's part in a file of its own: the model is whole again, or says what is missing."""

import json

import pytest
import torch

from tests.shaking import shaken_weights
from workshop_lib.errors import WorkshopError
from workshop_lib.models.diffusion_unet import DiffusionUNet, DiffusionUNetConfig
from workshop_lib.models.files import load_model, read_metadata, save_model
from workshop_lib.models.next_frame import NextFrame, NextFrameConfig

SMALL = NextFrameConfig(width=16, depth=1, middle=1, cond_dim=32)


def made(seed):
    torch.manual_seed(seed)
    mean = shaken_weights(NextFrame(SMALL)).eval()
    model = DiffusionUNet(DiffusionUNetConfig(mean=SMALL, width=16, depth=1, middle=1))
    shaken_weights(model).eval().mean.load_state_dict(mean.state_dict())
    return mean, model


@pytest.fixture
def files(tmp_path):
    mean, model = made(0)
    save_model(mean, "next_frame", tmp_path / "mean.safetensors", {}, "float16")
    save_model(model, "diffusion_unet", tmp_path / "whole.safetensors", {}, "float16")
    beside = tmp_path / "mean.safetensors"
    save_model(model, "diffusion_unet", tmp_path / "small.safetensors", {}, "float16", beside)
    return tmp_path


def test_the_model_is_whole_and_its_file_is_smaller(files) -> None:
    whole = load_model(files / "whole.safetensors").state_dict()
    again = load_model(files / "small.safetensors").state_dict()
    assert set(again) == set(whole)
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    sizes = {name: (files / f"{name}.safetensors").stat().st_size for name in ("whole", "small")}
    assert sizes["small"] < 0.9 * sizes["whole"]
    note = json.loads(read_metadata(files / "small.safetensors")["mean"])
    assert note["file"] == "mean.safetensors"


def test_what_lies_beside_must_be_the_very_file(files) -> None:
    other, _ = made(1)
    save_model(other, "next_frame", files / "mean.safetensors", {}, "float16")
    with pytest.raises(WorkshopError, match=r"mean\.safetensors: is not the file with which small"):
        load_model(files / "small.safetensors")
    (files / "mean.safetensors").unlink()
    with pytest.raises(WorkshopError, match=r"`workshop pretrained pull mean`, or copy"):
        load_model(files / "small.safetensors")


def test_only_what_is_inside_can_be_left_out(files) -> None:
    mean, _ = made(0)
    _, other = made(1)
    path = files / "new.safetensors"
    with pytest.raises(WorkshopError, match="is not the predictor inside this model"):
        save_model(other, "diffusion_unet", path, {}, "float16", files / "mean.safetensors")
    _, same = made(0)
    with pytest.raises(WorkshopError, match="or in another precision"):
        save_model(same, "diffusion_unet", path, {}, "float32", files / "mean.safetensors")
    with pytest.raises(WorkshopError, match="is not the predictor inside this model"):
        save_model(mean, "next_frame", path, {}, "float16", files / "mean.safetensors")
    assert not path.exists()

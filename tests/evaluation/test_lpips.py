"""LPIPS on random weights: the paper's formula, and another implementation of it."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchmetrics.functional.image.lpips as torchmetrics_lpips
from safetensors.torch import load_file, save_file
from torch import nn

from tests.conftest import REPOSITORY, SAMPLE
from workshop_lib.cli import main
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.compare import evaluate as evaluate_worlds
from workshop_lib.evaluation.heldout import heldout_episodes
from workshop_lib.evaluation.lpips import Lpips
from workshop_lib.evaluation.world import evaluate

# Number of the convolution in torchvision's AlexNet, channels in and out, size, stride, padding.
CONVS = [(0, 3, 64, 11, 4, 2), (3, 64, 192, 5, 1, 2), (6, 192, 384, 3, 1, 1),
         (8, 384, 256, 3, 1, 1), (10, 256, 256, 3, 1, 1)]  # fmt: skip
# The real weights of the channels, which torchmetrics brings.
LINES = Path(torchmetrics_lpips.__file__).parent / "lpips_models" / "alex.pth"
EASY = str(SAMPLE / "easy")


def random_tower():
    random = torch.Generator().manual_seed(0)
    weights = {"classifier.1.bias": torch.zeros(4096)}  # the published file has its classifier, too
    for number, before, after, size, *_ in CONVS:
        scale = (2 / (size * size * before)) ** 0.5
        shape = after, before, size, size
        weights[f"features.{number}.weight"] = scale * torch.randn(shape, generator=random)
        weights[f"features.{number}.bias"] = 0.1 * torch.randn(after, generator=random)
    return weights


def random_weights():
    random = torch.Generator().manual_seed(1)
    widths = enumerate(after for _, _, after, *_ in CONVS)
    lines = {f"lin{n}.model.1.weight": torch.rand(1, c, 1, 1, generator=random) for n, c in widths}
    return {**random_tower(), **lines}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("lpips") / "lpips.safetensors"
    save_file(random_weights(), path)
    return str(path)


@pytest.fixture(scope="module")
def lpips(file):
    return Lpips(file)


@pytest.fixture(scope="module")
def frames():
    """Recorded, uint8 (4, 3, 64, 64, 3)."""
    return heldout_episodes(EASY, "test", 4, 3).frames


def by_hand(file, frames, real):
    """The distance written out from the paper, for two pictures (H, W, C)."""
    weights, total = load_file(file), 0.0
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)
    a, b = ((x.permute(2, 0, 1)[None] / 255 * 2 - 1 - shift) / scale for x in (frames, real))
    for n, (number, _, _, _, stride, padding) in enumerate(CONVS):
        kernel, bias = (weights[f"features.{number}.{part}"] for part in ("weight", "bias"))
        if n in (1, 2):
            a, b = (F.max_pool2d(x, 3, 2) for x in (a, b))
        a, b = (F.conv2d(x, kernel, bias, stride, padding).relu() for x in (a, b))
        units = [x / x.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-10) for x in (a, b)]
        apart = (units[0] - units[1]).square()
        total += (apart * weights[f"lin{n}.model.1.weight"]).sum(dim=1).mean().item()
    assert a.shape == (1, 256, 3, 3)  # of 64 x 64 this much is left
    return total


def test_it_is_the_formula_of_the_paper(file, lpips, frames):
    real, other = frames, frames.roll(1, dims=0)
    found = lpips(other, real)
    assert found.shape == (4, 3)
    for row in range(4):
        expected = by_hand(file, other[row, 1], real[row, 1])
        assert found[row, 1].item() == pytest.approx(expected, rel=1e-4) and expected > 0.01


def test_it_is_what_torchmetrics_computes(frames, tmp_path, monkeypatch):
    """Their code with the real weights of the channels, over the same random tower."""
    tower = nn.Sequential()
    for number, before, after, size, stride, padding in CONVS:
        if number in (3, 6):
            tower.append(nn.MaxPool2d(3, 2))
        tower.extend([nn.Conv2d(before, after, size, stride, padding), nn.ReLU()])
    found = {k[9:]: v for k, v in random_tower().items() if k.startswith("features.")}
    tower.load_state_dict(found)
    monkeypatch.setattr(torchmetrics_lpips, "_get_tv_model_features", lambda *_: tower)
    theirs = torchmetrics_lpips._LPIPS(net="alex", pretrained=False)
    theirs.load_state_dict(real_lines(), strict=False)
    save_file({**random_tower(), **real_lines()}, tmp_path / "a.safetensors")
    real, other = frames[:, 0], frames[:, 2].flip(1)
    a, b = (x.permute(0, 3, 1, 2) / 255 for x in (other, real))
    expected = theirs(a, b, normalize=True).flatten()
    torch.testing.assert_close(Lpips(tmp_path / "a.safetensors")(other, real), expected)


def real_lines():
    return torch.load(LINES, map_location="cpu", weights_only=True)


def test_equal_pictures_are_not_apart_and_order_does_not_matter(lpips, frames):
    other = frames.flip(3)
    assert (lpips(frames, frames) == 0).all()
    torch.testing.assert_close(lpips(frames, other), lpips(other, frames))
    assert (lpips(frames, other) > 0).all()


def test_it_grows_with_noise_and_blur(lpips, frames):
    random = torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
    noisy = [(frames + level * random).clamp(0, 255).byte() for level in (2, 8, 32, 96)]
    small = frames.flatten(0, 1).permute(0, 3, 1, 2).float()
    blurred = [
        F.interpolate(F.avg_pool2d(small, size), 64).permute(0, 2, 3, 1).byte().view(frames.shape)
        for size in (2, 4, 8)
    ]
    for series in (noisy, blurred):
        apart = [lpips(changed, frames).mean().item() for changed in series]
        assert apart == sorted(apart) and apart[-1] > 2 * apart[0] > 0


def test_small_pictures_are_enlarged_and_others_taken_as_they_are(lpips, frames):
    small = frames[:, :, ::4, ::4]
    shifted = small.roll(1, dims=3)
    enlarged = [
        F.interpolate(x.flatten(0, 1).permute(0, 3, 1, 2).float(), scale_factor=4, mode="bilinear")
        for x in (small, shifted)
    ]
    whole = [x.round().permute(0, 2, 3, 1).byte().view(4, 3, 64, 64, 3) for x in enlarged]
    torch.testing.assert_close(lpips(shifted, small), lpips(whole[1], whole[0]), rtol=0.1, atol=0)
    wide = torch.cat([frames, frames], dim=3)
    assert lpips(wide, wide.flip(2)).shape == (4, 3)


def test_wrong_files_are_named(file, tmp_path):
    def fails(name, says):
        with pytest.raises(WorkshopError, match=re.escape(f"{tmp_path / name}: {says}")) as caught:
            Lpips(tmp_path / name)
        assert "\n" not in str(caught.value)

    fails("absent.safetensors", "not a whole safetensors file")
    torch.save(random_weights(), tmp_path / "pickled.pth")
    fails("pickled.pth", "not a whole safetensors file")
    (tmp_path / "torn.safetensors").write_bytes(Path(file).read_bytes()[:-1000])
    fails("torn.safetensors", "not a whole safetensors file")
    save_file(random_tower(), tmp_path / "tower.safetensors")
    fails("tower.safetensors", "not the weights of LPIPS with AlexNet (no lin0.model.1.weight)")
    for name, wrong in (("features.3.weight", (192, 64, 3, 3)), ("lin4.model.1.weight", (1, 512))):
        save_file({**random_weights(), name: torch.zeros(wrong)}, tmp_path / "wrong.safetensors")
        fails("wrong.safetensors", f"not the weights of LPIPS with AlexNet ({name} is {wrong}, not")


def test_the_lines_of_the_documentation_make_the_file(tmp_path, monkeypatch, frames):
    monkeypatch.chdir(tmp_path)
    torch.save(random_tower(), "alexnet-owt-7be5be79.pth")
    Path("alex.pth").write_bytes(LINES.read_bytes())
    text = (REPOSITORY / "docs" / "lpips.md").read_text()
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], {})
    assert "classifier.1.bias" not in load_file("lpips.safetensors")
    assert (Lpips("lpips.safetensors")(frames, frames.flip(2)) > 0).all()


def test_reports_have_it_only_when_asked(file, lpips, diffusion, tmp_path, capsys):
    how = dict(data=EASY, clips=3, horizon=2, long=0)
    plain = evaluate(diffusion, out=str(tmp_path / "plain"), **how)
    without = capsys.readouterr().out
    report = evaluate(diffusion, lpips=file, out=str(tmp_path / "seen"), **how)
    printed = capsys.readouterr().out
    assert "LPIPS" in printed and "LPIPS" not in without
    at = {
        name: json.loads((tmp_path / name / "report.json").read_text())["rollout"]["at"][1]
        for name in ("plain", "seen")
    }
    more = {"lpips", "copy_lpips", "shuffled_lpips"}
    assert set(at["seen"]) - set(at["plain"]) == more
    assert {key: at["seen"][key] for key in at["plain"]} == at["plain"]
    written = {name: (tmp_path / name / "horizons.csv").read_text() for name in at}
    head = {name: next(csv.reader(text.splitlines())) for name, text in written.items()}
    assert set(head["seen"]) - set(head["plain"]) == more | {f"{key}_interval" for key in more}

    clip = heldout_episodes(EASY, "test", 3, 10)
    copied = lpips(clip.frames[:, 7], clip.frames[:, 9])
    assert report.rollout.at[1].copy_lpips.mean == pytest.approx(copied.mean().item())
    assert f"{copied.mean():.3f}" in printed
    assert plain.rollout.at[1].psnr == report.rollout.at[1].psnr

    worlds = evaluate_worlds(diffusion, lpips=file, **how)
    assert worlds.rows()[0].count("LPIPS") == 1
    assert worlds.worlds[0].rollout == report.rollout
    assert "LPIPS" not in evaluate_worlds(diffusion, **how).rows()[0]


def test_a_missing_file_is_said_before_anything_is_measured(diffusion, capsys):
    what = ["evaluate", "world", diffusion, "--data", EASY, "--lpips", "absent.safetensors"]
    assert main(what) == 1
    said = capsys.readouterr()
    assert "absent.safetensors: not a whole safetensors file" in said.err and not said.out

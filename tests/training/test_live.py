"""Training within a notebook: it learns, leaves nothing behind, and can be stopped."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.conftest import SAMPLE
from workshop_lib.data.clip import Clip
from workshop_lib.data.clips import ClipBatches, ClipConfig
from workshop_lib.data.splits import split_shards
from workshop_lib.errors import WorkshopError
from workshop_lib.models.tokenizer import Tokenizer
from workshop_lib.training import live
from workshop_lib.training.live import from_recipe, train_live, training_picture
from workshop_lib.training.optim import OptimConfig


def batches(split: str = "train") -> ClipBatches:
    config = ClipConfig(length=1, batch_size=8, clips_per_read=8)
    return ClipBatches(split_shards(SAMPLE / "easy", split), config)


class Shade(nn.Module):
    """The smallest model: one gray for all frames. It notes the grays that it is measured with."""

    def __init__(self) -> None:
        super().__init__()
        self.gray = nn.Parameter(torch.zeros(()))
        self.measured: list[float] = []

    def loss(self, clip: Clip) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        if not self.training:
            self.measured.append(self.gray.item())
        return (self.gray - clip.video).square().mean(), {}


def clip_of(value: int) -> Clip:
    frames = torch.full((2, 1, 8, 8, 3), value, dtype=torch.uint8)
    return Clip(frames, torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 1, dtype=torch.bool))


def test_a_tokenizer_learns_and_leaves_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model, optim = from_recipe("tokenizer/tiny", dim=16, depth=1, latent_dim=16)
    held_out = next(iter(batches("val")))
    curves = train_live(model, batches(), 40, held_out, optim, show=False)
    steps, values = curves["val/psnr"]
    assert steps.tolist() == list(range(2, 41, 2)) and values[-1] > values[0] + 3
    assert len(curves["train/loss"][1]) == 40
    assert np.isclose(model.loss(held_out)[1]["psnr"].item(), values[-1], atol=1e-3)
    assert not model.training and list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_the_averaged_weights_are_measured_and_kept() -> None:
    model = Shade()
    optim = OptimConfig(lr=0.02, warmup=0, schedule="constant", ema=0.999)
    curves = train_live(model, [clip_of(255)], 20, clip_of(255), optim, show=False)
    assert model.gray.item() == pytest.approx(model.measured[-1])
    raw_gray = 1 - np.sqrt(curves["train/loss"][1][-1])  # before the last step
    assert 0 < model.measured[-1] < raw_gray

    plain = Shade()
    train_live(plain, [clip_of(255)], 20, optim=replace(optim, ema=0), show=False)
    assert plain.gray.item() > model.gray.item()


def test_interrupting_keeps_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    def clips():
        for number in range(100):
            if number == 30:
                raise KeyboardInterrupt
            yield clip_of(255)

    class Clips:
        def __iter__(self):
            return clips()

    before = signal.getsignal(signal.SIGINT)
    model = Shade()
    curves = train_live(model, Clips(), 100, optim=OptimConfig(lr=0.1, warmup=0, ema=0), show=False)
    stopped = len(curves["train/loss"][0])
    assert f"stopped after {stopped} steps" in capsys.readouterr().out
    assert 25 <= stopped <= 30 and model.gray.item() > 0.5
    assert signal.getsignal(signal.SIGINT) is before


def test_recipes_become_models_with_changes() -> None:
    model, optim = from_recipe("tokenizer/tiny", dim=8)
    assert isinstance(model, Tokenizer)
    assert model.config.dim == 8 and model.config.patch == 8 and optim.lr == 2e-3
    with pytest.raises(WorkshopError, match="unknown key 'width'"):
        from_recipe("tokenizer/tiny", width=8)
    with pytest.raises(WorkshopError, match="no recipe 'tokenizer/tinny'"):
        from_recipe("tokenizer/tinny")


@pytest.mark.parametrize(
    ("model", "clips", "steps", "says"),
    [
        (Shade(), [clip_of(0)], 0, "steps must be 1 or more, got 0"),
        (nn.Linear(2, 2), [clip_of(0)], 1, r"Linear has no loss\(clip\)"),
        (Shade(), [], 1, "no batches"),
    ],
)
def test_what_cannot_be_trained_is_refused(model, clips, steps, says) -> None:
    with pytest.raises(WorkshopError, match=says):
        train_live(model, clips, steps, show=False)


def test_the_picture_is_drawn_in_place_and_only_in_a_notebook(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown: list[object] = []

    class Handle:
        def update(self, figure: object) -> None:
            shown.append(figure)

    def display(figure: object, display_id: bool) -> Handle:
        shown.append("first")
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    train_live(Shade(), [clip_of(9)], 4, clip_of(9))
    assert shown == []
    monkeypatch.setattr(live, "_in_notebook", lambda: True)
    monkeypatch.setattr(live, "SECONDS_BETWEEN_PICTURES", 0.0)
    train_live(Shade(), [clip_of(9)], 4, clip_of(9))
    assert shown[0] == "first" and len(shown) == 5  # 4 measurements and the end


def test_the_picture_shows_curves_and_frames() -> None:
    steps = np.arange(1, 11)
    curves = {
        "train/loss": (steps, 1 / steps),
        "train/psnr": (steps, 20.0 + steps),
        "val/psnr": (steps[4:6], np.array([25.0, 28.25])),
    }
    frames = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    figure = training_picture(curves, 50, {"real": frames, "again": frames + 7})
    loss, psnr, pictures = figure.axes
    assert loss.get_xlim() == psnr.get_xlim() == (0, 50)
    assert psnr.get_title(loc="left") == "PSNR: 28.2 dB"  # of held-out frames
    assert [line.get_ydata()[-1] for line in psnr.lines] == [30, 28.25]
    shown = pictures.images[0].get_array()
    assert shown.shape == (16, 32, 3) and (shown[8:] == 7).all()
    assert [label.get_text() for label in pictures.get_yticklabels()] == ["real", "again"]

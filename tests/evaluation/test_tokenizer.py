"""The report on a tokenizer: right on cases whose answer is known."""

import json

import pytest
import torch

from tests.conftest import SAMPLE
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.metrics import psnr_per_clip
from workshop_lib.evaluation.tokenizer import bicubic, evaluate, heldout_clips, measure
from workshop_lib.models.files import save_model
from workshop_lib.models.tokenizer import Tokenizer, TokenizerConfig


@pytest.fixture(scope="module")
def frames():
    return heldout_clips(SAMPLE / "easy", "test", clips=12, length=4)


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    return Tokenizer(TokenizerConfig(dim=16, depth=1, latent_dim=16)).eval()


class Perfect(Tokenizer):
    """Remembers what it was given: a tokenizer without loss."""

    def encode(self, frames):
        self.seen = frames
        numbers = torch.arange(frames.shape[0] * frames.shape[1] * 64) % 512
        return numbers.view(*frames.shape[:2], 8, 8)

    def decode(self, tokens):
        return self.seen


def test_a_perfect_tokenizer_gets_a_perfect_report(frames):
    perfect = Perfect(TokenizerConfig(dim=16, depth=1, latent_dim=16))
    report = measure(perfect, frames)
    assert report.psnr.mean == pytest.approx(106, abs=0.1)
    assert report.ssim.mean == pytest.approx(1, abs=1e-4)
    assert report.frames == 48 and report.tokens_per_frame == 64
    assert report.bits_per_frame == 64 * 9
    assert report.usage == 1.0 and report.perplexity == pytest.approx(512, rel=0.01)


def test_controls_are_beaten_in_the_right_order(frames, tokenizer):
    report = measure(tokenizer, frames)
    mean, small = report.controls.values()
    assert report.psnr.mean < 15 < small.mean  # untrained: worse than a tiny picture
    assert mean.mean < small.mean < 40
    finer = psnr_per_clip(
        bicubic(frames[:2].movedim(-1, 2) / 127.5 - 1, 32), frames[:2].movedim(-1, 2) / 127.5 - 1
    )
    assert min(finer) > small.mean


def test_held_out_clips_are_the_same_every_time(frames):
    again = heldout_clips(SAMPLE / "easy", "test", clips=12, length=4)
    assert torch.equal(frames, again)
    assert not torch.equal(frames, heldout_clips(SAMPLE / "easy", "val", clips=12, length=4))


def test_the_command_writes_report_and_pictures(tmp_path, tokenizer, capsys):
    from PIL import Image

    path = tmp_path / "a.safetensors"
    save_model(tokenizer, "tokenizer", path, {})
    report = evaluate(
        str(path), data=str(SAMPLE / "easy"), clips=8, length=4, out=str(tmp_path / "out")
    )
    assert "codes in use" in capsys.readouterr().out
    written = json.loads((tmp_path / "out/report.json").read_text())
    assert written["psnr"]["mean"] == report.psnr.mean
    for name in ("reconstructions", "tokens", "codebook"):
        picture = Image.open(tmp_path / f"out/{name}.png").convert("RGB")
        assert len(picture.getcolors(1 << 24)) > 20  # something is drawn


def test_a_tokenizer_that_shrinks_time_gets_clips_that_fit_it(tmp_path):
    config = TokenizerConfig("magvit2", dim=8, depth=1, latent_dim=8, time_patch=4)
    save_model(Tokenizer(config), "tokenizer", tmp_path / "a.safetensors", {})
    report = evaluate(str(tmp_path / "a.safetensors"), str(SAMPLE / "easy"), clips=2, length=8)
    assert report.frames == 2 * 5 and report.tokens_per_frame == 16


def test_another_kind_of_file_is_refused(tmp_path):
    with pytest.raises(WorkshopError, match="no such file"):
        evaluate(str(tmp_path / "nothing.safetensors"))

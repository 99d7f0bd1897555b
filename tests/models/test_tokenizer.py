"""Tokenizers of every architecture: they learn, keep time's order, and say what does not fit."""

import math

import pytest
import torch

from tests.conftest import SAMPLE
from workshop_lib.data.clip import Clip, frames_to_video
from workshop_lib.data.clips import ClipBatches, ClipConfig
from workshop_lib.data.splits import split_shards
from workshop_lib.errors import WorkshopError
from workshop_lib.models.files import load_model, save_model
from workshop_lib.models.tokenizer import Tokenizer, TokenizerConfig, log_mse
from workshop_lib.nn.quantizers import FSQConfig, LFQConfig, VQConfig

FSQ = FSQConfig(levels=(8, 8, 8))
SMALL = {
    "conv": dict(architecture="conv", dim=16, depth=1, latent_dim=16),
    "vit": dict(architecture="vit", dim=32, depth=2, heads=2, latent_dim=16),
    "magvit2": dict(architecture="magvit2", dim=8, depth=1, latent_dim=16),
    "magvit2 in time": dict(architecture="magvit2", dim=8, depth=1, latent_dim=16, time_patch=4),
}


def make(kind, quantizer=FSQ, **changes):
    torch.manual_seed(0)
    return Tokenizer(TokenizerConfig(**{**SMALL[kind], "quantizer": quantizer, **changes}))


@pytest.fixture(scope="module")
def clip():
    """Two real clips of 5 frames (1 + 4, so that time can shrink by 4)."""
    shards = split_shards(SAMPLE / "easy", "train")
    return next(iter(ClipBatches(shards, ClipConfig(length=5, batch_size=2, lanes=2))))


@pytest.mark.parametrize("kind", SMALL)
def test_tokens_and_frames_have_their_places(kind, clip):
    tokenizer = make(kind).eval()
    tokens = tokenizer.encode(clip.frames)
    frames_per_grid = tokenizer.config.time_patch
    assert tokens.shape == (2, 1 + 4 // frames_per_grid, 8, 8)
    assert tokens.min() >= 0 and tokens.max() < tokenizer.num_codes == 512
    frames = tokenizer.decode(tokens)
    assert frames.shape == clip.frames.shape and frames.dtype == torch.uint8
    assert torch.equal(frames, tokenizer.reconstruct(clip.frames))
    # decoding the tokens gives what the forward pass gives
    video, quantized = tokenizer(clip.video)
    assert torch.equal(quantized.tokens, tokens)
    assert (tokenizer.decoder(tokenizer.quantizer.decode(tokens)) - video).abs().max() < 1e-5


@pytest.mark.parametrize("kind", SMALL)
def test_the_future_never_changes_the_past(kind, clip):
    tokenizer = make(kind).eval()
    other = clip.frames.clone()
    other[:, -1] = 255 - other[:, -1]
    with torch.no_grad():
        a, b = (tokenizer.encoder(frames_to_video(frames)) for frames in (clip.frames, other))
    assert torch.equal(a[:, :-1], b[:, :-1])
    assert (a[:, -1] - b[:, -1]).abs().max() > 1e-3
    tokens = tokenizer.encode(clip.frames)
    later = tokens.clone()
    later[:, 1:] = (later[:, 1:] + 7) % tokenizer.num_codes
    shown = tokenizer.decode(tokens)
    assert torch.equal(shown[:, :1], tokenizer.decode(later)[:, :1])
    assert not torch.equal(shown[:, 1:], tokenizer.decode(later)[:, 1:])


@pytest.mark.parametrize("quantizer", [FSQ, VQConfig(num_codes=32), LFQConfig(bits=6)], ids=str)
@pytest.mark.parametrize("kind", SMALL)
def test_gradients_reach_every_parameter(kind, quantizer, clip):
    tokenizer = make(kind, quantizer).train()
    with torch.no_grad():  # projections that start at zero would hide what lies before them
        for p in tokenizer.parameters():
            p.add_(0.02 * torch.randn_like(p))
    loss, _ = tokenizer.loss(clip)
    loss.backward()
    still = [n for n, p in tokenizer.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


@pytest.mark.parametrize(
    ("kind", "quantizer", "changes"),
    [
        ("conv", FSQ, {"dim": 32}),
        ("conv", VQConfig(num_codes=256), {"dim": 32}),
        ("conv", LFQConfig(bits=9), {"dim": 32}),
        ("vit", FSQ, {"dim": 64}),
        ("magvit2", FSQ, {}),
    ],
    ids=["conv-fsq", "conv-vq", "conv-lfq", "vit-fsq", "magvit2-fsq"],
)
def test_it_learns_two_frames_by_heart(kind, quantizer, changes, clip):
    """Far beyond the mean picture (about 12 dB), in a hundred or two steps."""
    part = Clip(clip.frames[:, :1], clip.actions[:, :1], clip.first[:, :1])
    tokenizer = make(kind, quantizer, **changes).train()
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=4e-3, betas=(0.9, 0.95))
    best = 0.0
    for _ in range(300):
        loss, logs = tokenizer.loss(part)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tokenizer.parameters(), 1.0)
        optimizer.step()
        best = max(best, float(logs["psnr"]))
        if best > 24:
            break
    assert best > 24


@pytest.mark.parametrize("quantizer", [FSQ, VQConfig(num_codes=64)], ids=str)
def test_a_decoder_can_learn_alone(quantizer, clip):
    """Tokens stay as they are, to the last one, while the pictures made of them get better."""
    tokenizer = make("conv", quantizer, train_encoder=False).train()
    if isinstance(quantizer, VQConfig):
        with torch.no_grad():  # as after some training; else its first vectors come from data
            tokenizer.quantizer.codebook.idle.zero_()
    before, tokens = tokenizer.loss(clip)[0].item(), tokenizer.encode(clip.frames)
    trained = [p for p in tokenizer.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=4e-3, weight_decay=0.1)
    for _ in range(20):
        loss, _ = tokenizer.loss(clip)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.equal(tokenizer.encode(clip.frames), tokens)
    assert tokenizer.loss(clip)[0] < 0.5 * before


def test_the_loss_is_what_it_says(clip):
    for name in ("mse", "huber", "l1", "log_mse"):
        tokenizer = make("conv", loss=name)
        video = clip.video
        difference = tokenizer(video)[0] - video
        expected = {
            "mse": (difference**2).mean(),
            "l1": difference.abs().mean(),
            "huber": torch.where(
                difference.abs() < 1, difference**2 / 2, difference.abs() - 0.5
            ).mean(),
            "log_mse": torch.stack(
                [frame.square().mean().log() for frame in difference.flatten(0, 1)]
            ).mean(),
        }[name]
        assert torch.allclose(tokenizer.loss(clip)[0], expected)


def test_log_mse_counts_a_plain_frame_as_much_as_a_busy_one(clip):
    """Halving the error of either frame wins the same, and a perfect frame is no minus infinity."""
    video = clip.video
    noise = torch.randn_like(video) * torch.tensor([0.01, 0.5]).view(2, 1, 1, 1, 1)
    before = log_mse(video + noise, video)
    for better in range(2):
        halved = noise.clone()
        halved[better] /= 2
        won = before - log_mse(video + halved, video)
        assert torch.allclose(won, torch.tensor(math.log(4) / 2), atol=1e-3)
    assert log_mse(video, video).isfinite()


def test_a_saved_tokenizer_is_the_same_one(tmp_path, clip):
    for quantizer in (FSQ, VQConfig(num_codes=64), LFQConfig(bits=6)):
        tokenizer = make("conv", quantizer)
        tokenizer.train()
        tokenizer.loss(clip)  # a codebook takes its first vectors from data
        tokenizer.eval()
        save_model(tokenizer, "tokenizer", tmp_path / "a.safetensors", {})
        again = load_model(tmp_path / "a.safetensors")
        assert again.config == tokenizer.config
        assert torch.equal(again.reconstruct(clip.frames), tokenizer.reconstruct(clip.frames))


def test_a_wrong_file_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(WorkshopError, match="no such file"):
        load_model(path)
    save_model(make("conv"), "tokenizer", path, {})
    data = path.read_bytes()
    path.write_bytes(data[:-50])
    with pytest.raises(WorkshopError, match="not a whole safetensors"):
        load_model(path)
    path.write_bytes(data.replace(b'\\"depth\\": 1', b'\\"depth\\": 2'))
    with pytest.raises(WorkshopError, match="do not fit its config"):
        load_model(path)
    path.write_bytes(data.replace(b'\\"depth\\": 1', b'\\"depht\\": 1'))
    with pytest.raises(WorkshopError, match="depht"):
        load_model(path)
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(WorkshopError, match="no model of this library"):
        load_model(path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"patch": 6},
        {"patch": 2},
        {"size": 60},
        {"depth": 0},
        {"time_patch": 2},
        {"architecture": "magvit2", "time_patch": 3},
        {"perceptual": -1},
    ],
)
def test_impossible_configs_are_named(wrong):
    with pytest.raises(WorkshopError, match=r"model\."):
        TokenizerConfig(**{**SMALL["conv"], **wrong})


def test_frames_of_another_size_are_refused():
    with pytest.raises(WorkshopError, match="64, 64"):
        make("conv").encode(torch.zeros(1, 1, 32, 32, 3, dtype=torch.uint8))

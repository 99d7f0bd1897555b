"""The diffusion model learns its clips and what keys do; the future never reaches the past."""

from dataclasses import replace

import pytest
import torch

from tests.models.scrolling import SIZE, scrolling_clip
from workshop_lib.data.actions import JUMP, LEFT, RIGHT
from workshop_lib.errors import WorkshopError
from workshop_lib.models.diffusion import Diffusion
from workshop_lib.models.diffusion_config import DiffusionConfig
from workshop_lib.models.expected import mean_of_each
from workshop_lib.models.next_frame import NextFrame, NextFrameConfig
from workshop_lib.models.tokenizer import psnr
from workshop_lib.nn.dit import DiTConfig
from workshop_lib.nn.oasis import OasisConfig
from workshop_lib.training.optim import OptimConfig, make_optimizer

NET = DiTConfig(size=SIZE, patch=8, dim=64, depth=2, heads=2, window=4)
OASIS = OasisConfig((SIZE, SIZE), 8, 64, 2, 2, window=6)
WAYS = {
    "drafts": DiffusionConfig(net=NET),
    "displaced": DiffusionConfig(net=NET, see=2, displacement=True, data_std=0.25, whole=0.2),
    "mean": DiffusionConfig(net=NET, mean=NextFrameConfig(width=16), see=1, data_std=0.25, steps=3),
    "flow": DiffusionConfig(
        net=NET, schedule="flow", training="independent", context=0.1, stabilization=0.02
    ),
    "edm": DiffusionConfig(net=NET, schedule="edm", data_std=0.5, context=0.1, stabilization=0.02),
    "public": DiffusionConfig(net=OASIS, prediction="v", training="independent", steps=10),
}


def clips(count=4, length=6, seed=0):
    return scrolling_clip(count, length, torch.Generator().manual_seed(seed))


def train(model, clip, steps, lr=3e-3):
    optimizer = make_optimizer(model, OptimConfig(lr=lr))
    model.train()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(1, 2 * (1 - step / steps))
        loss, _ = model.loss(clip)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def taught():
    """Knows one clip for each key by heart."""
    torch.manual_seed(0)
    clip = clips(3)
    config = replace(WAYS["displaced"], displacement=False, context=20.0)
    return train(Diffusion(config), clip, 250, lr=5e-3), clip


def test_it_reproduces_what_it_knows_by_heart(taught):
    model, clip = taught
    dream = model.predict(clip.frames[:, :2], clip.actions[:, :-1])
    quality = psnr(video_of(dream), video_of(clip.frames[:, 2:]))
    copy = psnr(video_of(clip.frames[:, 1:2]), video_of(clip.frames[:, 2:]))
    assert quality > 22 and quality > copy + 4


def test_another_key_changes_the_dream(taught):
    model, clip = taught
    dreams = {}
    for key in (LEFT, RIGHT, JUMP):
        actions = clip.actions[:, :-1].clone()
        actions[:, 1:] = key
        dreams[key] = video_of(model.predict(clip.frames[:, :2], actions))
    for a, b in ((LEFT, RIGHT), (LEFT, JUMP), (RIGHT, JUMP)):
        assert psnr(dreams[a], dreams[b]) < 18


def test_without_its_action_a_frame_is_another(taught):
    """What guidance compares."""
    model, clip = taught
    led_by = torch.nn.functional.pad(clip.actions[:, :1], (1, 0), value=-1)
    memory = model.recall(clip.frames[:, :2], led_by)
    x = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    level = torch.tensor(1000.0)
    given = model.denoise(x, level, clip.actions[:, 1], memory)
    without = model.denoise(x, level, torch.full((3,), -1), memory)
    assert (given - without).abs().mean() > 0.01


@pytest.mark.parametrize("way", ["drafts", "mean", "flow", "edm", "public"])
def test_every_way_learns(way):
    torch.manual_seed(0)
    model, clip = Diffusion(WAYS[way]), clips(2)
    model.eval()
    _, before = model.loss(clip)
    train(model, clip, 50)
    _, after = model.loss(clip)
    assert after["psnr"] > before["psnr"] + 0.5
    assert after["v_mse"] < 0.9 * before["v_mse"] and after["ssim"] > before["ssim"]


def test_of_pure_noise_the_mean_is_believed():
    """So that with one step a dream is the predictor's."""
    torch.manual_seed(0)
    model, clip = Diffusion(WAYS["mean"]), clips(2)
    with torch.no_grad():
        for p in model.mean.parameters():
            p.add_(0.02 * torch.randn_like(p))
    expected = model.mean.predict(clip.frames[:, :2], clip.actions[:, :-1])
    assert psnr(video_of(expected), video_of(clip.frames[:, 2:])) < 30
    model.config = replace(model.config, steps=1)
    dream = model.predict(clip.frames[:, :2], clip.actions[:, :-1])
    assert (dream.int() - expected.int()).abs().max() <= 1


def test_the_mean_of_a_clip_is_that_of_its_prompts():
    """Frame by frame in play, and all at once in training, the same."""
    torch.manual_seed(0)
    model, clip = NextFrame(NextFrameConfig(width=16)).eval(), clips(2)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
        means = mean_of_each(model, clip.video[:, :-1], clip.actions[:, :-1])
    for seen in range(1, 6):
        prompt = clip.frames[:, :seen], clip.actions[:, :seen]
        expected = video_of(model.predict(*prompt)[:, 0])
        assert (means[:, seen - 1].clamp(-1, 1) - expected).abs().max() < 2 / 255


def test_a_trained_predictor_can_stay_as_it_is():
    torch.manual_seed(0)
    clip = clips(2)
    for learns in (True, False):
        model = Diffusion(replace(WAYS["mean"], train_mean=learns))
        before = {name: p.clone() for name, p in model.named_parameters()}
        assert ("psnr_mean" in model.loss(clip)[1]) == learns
        train(model, clip, 2)
        moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
        assert any(name.startswith("net.") for name in moved)
        assert any(name.startswith("mean.") for name in moved) == learns


def test_the_noise_teaches_the_predictor_nothing():
    """Its gradients are those of its own loss."""
    torch.manual_seed(0)
    model, clip = Diffusion(WAYS["mean"]).eval(), clips(2)
    gradients = []
    for loss in (model.loss(clip)[0], model.mean.loss(clip)[0]):
        model.zero_grad()
        loss.backward()
        gradients.append([p.grad.clone() for p in model.mean.parameters()])
    assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(*gradients, strict=True))


def test_v_mse_is_that_of_the_public_schedule():
    """Of a model that predicts v under it: the squared error of its prediction, nothing else."""
    torch.manual_seed(0)
    model, clip = Diffusion(WAYS["public"]).eval(), clips()
    x, level, led_by = torch.randn(4, 6, 3, SIZE, SIZE), torch.full((4, 6), 300.0), clip.actions
    alpha, sigma = model.schedule.alpha_sigma(level)
    # untrained it says v = 0, so x0 is alpha x
    clean = model(x, level, led_by, model.before(x))
    assert torch.allclose(clean, alpha[..., None, None, None] * x, atol=1e-5)
    expected = (alpha**2 + sigma**2 * clip.video.square().mean((2, 3, 4))).mean()
    assert float(expected) < 1.5
    # E v^2 over all levels: between that of the noise (1) and that of the pictures
    low, high = sorted((1.0, float(clip.video.square().mean())))
    assert low - 0.05 < float(model.measure(clip)["v_mse"]) < high + 0.05


@pytest.mark.parametrize("way", WAYS)
def test_later_frames_never_reach_earlier_ones(way):
    torch.manual_seed(0)
    model, clip = Diffusion(WAYS[way]).eval(), clips(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn_like(p))
    level = torch.full((1, 6), 0.3 * model.schedule.top)
    led_by, noise = clip.actions.clone(), torch.Generator

    def clean(video):
        return model._denoised(video, level, led_by, noise().manual_seed(0))[0]

    with torch.no_grad():
        before = clean(clip.video)
        changed = clip.video.clone()
        changed[:, 4:] = 0
        after = clean(changed)
    skipped = 6 - before.shape[1]  # with drafts the first frame is none
    same = 4 - skipped
    assert torch.allclose(before[:, :same], after[:, :same], atol=1e-5)
    assert not torch.allclose(before[:, same:], after[:, same:], atol=1e-3)


def test_evaluation_is_the_same_every_time_and_training_is_not():
    torch.manual_seed(0)
    model, clip = Diffusion(WAYS["drafts"]), clips()
    model.train()
    assert model.loss(clip)[0] != model.loss(clip)[0]
    model.eval()
    assert model.loss(clip)[0] == model.loss(clip)[0]


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"displacement": True}, "needs model.see >= 1"),
        ({"prediction": "v", "data_std": 0.5}, "go with model.prediction x, not v"),
        ({"net": OASIS}, "drafts needs net.kind dit"),
        ({"mean": NextFrameConfig(), "prediction": "v"}, "go with model.prediction x, not v"),
        ({"mean": NextFrameConfig(), "training": "independent"}, "and model.training drafts"),
        ({"mean": NextFrameConfig(num_actions=4)}, "model.mean.num_actions 4 must be"),
        ({"mean": NextFrameConfig(ahead=2)}, "model.mean: channels must be 3, ahead 1"),
        ({"sampler": "heun"}, "use 'ddim'"),
        ({"whole": 2.0}, "model.whole must be 0 to 1"),
        ({"schedule": "flow"}, "model.context 100.0 must be at least 0 and below 1"),
        ({"steps": 0}, "steps must be 1 or more"),
        ({"most": 0.0}, "model.most above 0"),
    ],
)
def test_what_does_not_fit_is_refused(values, complaint):
    with pytest.raises(WorkshopError, match=complaint):
        DiffusionConfig(**values)


def test_clips_that_do_not_fit_are_refused():
    model = Diffusion(WAYS["drafts"])
    with pytest.raises(WorkshopError, match=r"data.length must be 2"):
        model.loss(clips(length=1))
    clip = clips()
    clip.actions[0, 2] = 15
    with pytest.raises(WorkshopError, match="0 to 14, or -1 for unknown, got 15"):
        model.loss(clip)


def video_of(frames):
    return frames.movedim(-1, -3).float() / 127.5 - 1

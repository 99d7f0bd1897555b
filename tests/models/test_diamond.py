"""The diffusion U-Net without a mean inside: DIAMOND, and the same net on the flow schedule."""

import pytest
import torch
import torch.nn.functional as F

from tests.models.columns import columns_clip, held, steering, train
from tests.shaking import shaken_weights
from workshop_lib.data.clip import Clip, frames_to_video
from workshop_lib.errors import WorkshopError
from workshop_lib.models.diffusion_unet import DiffusionUNet, DiffusionUNetConfig
from workshop_lib.models.files import load_model, save_model
from workshop_lib.models.next_frame import NextFrameConfig
from workshop_lib.training.live import from_recipe
from workshop_lib.worlds.diffusion_world import DiffusionWorld
from workshop_lib.worlds.opening import open_world

SMALL = dict(width=16, depth=1, middle=2, with_mean=False, steps=3)


def make(past=None, **changes):
    torch.manual_seed(0)
    mean = NextFrameConfig(**{"frames": 2, "cond_dim": 32, **(past or {})})
    return DiffusionUNet(DiffusionUNetConfig(mean, **{**SMALL, "schedule": "edm", **changes}))


def shaken(past=None, **changes):
    """An untrained model whose every weight does something."""
    model = make(past, **changes).eval()
    return shaken_weights(model)


@pytest.mark.parametrize(("schedule", "steps"), [("edm", 200), ("flow", 90)])
def test_it_learns_a_clip_by_heart(schedule, steps, clip):
    """Three steps of Euler from noise to each frame, all but the first after frames of its own.
    A patch of 8 x 8 pixels has 192 numbers, and the network 32 channels: with "edm", it must take
    out noise that does not fit through it."""
    model = make(
        {"patch": 8, "noise": 0.02, "short": 0.0, "unroll": 1}, schedule=schedule, width=32
    )
    moments = [(clip.frames[:1, t : t + 3], clip.actions[:1, t : t + 3]) for t in range(4)]
    frames, actions = (torch.cat(part * 2) for part in zip(*moments, strict=True))
    whole = Clip(frames, actions, torch.zeros(8, 3, dtype=torch.bool))
    train(model, lambda: whole, steps, lr=4e-3)
    dream = model.predict(clip.frames[:1, :2], clip.actions[:1, :-1])
    error = frames_to_video(dream) - frames_to_video(clip.frames[:1, 2:])
    assert 10 * torch.log10(4 / error.square().mean()) > 22


def test_it_goes_where_the_action_says():
    torch.manual_seed(0)
    model = make({"num_actions": 3, "short": 0.0, "unroll": 1}, size=32)
    train(model, lambda: columns_clip(16, 3), steps=240)
    torch.manual_seed(1)
    assert min(steering(DiffusionWorld(model))) > 0.9


@pytest.mark.parametrize(
    ("sigma", "skip", "out", "shrink"),
    [
        (0.5, 0.5, 0.35355, 1.41421),
        (1.2, 0.14793, 0.46154, 0.76923),
        (5.0, 0.0099, 0.49752, 0.19901),
    ],
)
def test_preconditioning_is_that_of_karras_and_others(sigma, skip, out, shrink, clip):
    """Table 1 at sigma_data .5, worked out by hand. What the network says, F, is a picture from
    its body and a share of the picture that it sees."""
    model, seen, told, said, share = shaken(), [], [], [], []
    model.body.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model.level.register_forward_pre_hook(lambda _, given: told.append(given[0]))
    model.head.register_forward_hook(lambda *given: said.append(given[2]))
    model.straight.register_forward_hook(lambda *given: share.append(given[2]))
    noisy, level = sigma * torch.randn(2, 3, 64, 64), torch.full((2,), sigma)
    clean = model(noisy, level, clip.video[:, :2], clip.actions[:, :2])
    assert torch.allclose(F.pixel_shuffle(seen[0][:, -48:], 4), shrink * noisy, atol=1e-4)
    assert torch.allclose(told[0] / 500 - 1, level.log() / 4)  # c_noise
    network = F.pixel_shuffle(said[0], 4) + share[0][:, :, None, None] * shrink * noisy
    assert torch.allclose(clean, skip * noisy + out * network, atol=1e-3)
    assert (clean - skip * noisy).abs().max() > 0.05


def test_errors_count_as_in_karras_and_others(clip):
    """Untrained, the network says 0, so that the error is that of c_skip x; table 1 weighs it by
    lambda = (sigma^2 + s^2) / (sigma s)^2, s = sigma_data."""
    model = make({"unroll": 1}, data_std=0.6).eval()
    generator = torch.Generator().manual_seed(0)
    sigma = torch.exp(1.2 * torch.randn(2, generator=generator) - 0.4)[:, None, None, None]
    real = clip.video[:, 2]
    noisy = real + sigma * torch.randn(real.shape, generator=generator)
    error = (noisy * 0.36 / (sigma**2 + 0.36) - real).square()
    wanted = (error * (sigma**2 + 0.36) / (sigma * 0.6) ** 2).mean()
    assert torch.allclose(model.loss(clip)[0], wanted, rtol=1e-4)


def test_untrained_it_leaves_what_has_hardly_any_noise(clip):
    noisy = clip.video[:, 2] + 0.002 * torch.randn(2, 3, 64, 64)
    clean = make()(noisy, torch.full((2,), 0.002), clip.video[:, :2], clip.actions[:, :2])
    assert (clean - noisy).abs().max() < 1e-4


def test_the_recipe_has_the_numbers_of_diamond():
    model, _ = from_recipe("diffusion/diamond", width=16)
    assert model.context == 4 and model.config.steps == 3 and model.config.sampler == "euler"
    middle = ((5 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7
    assert torch.allclose(model.schedule.steps(3), torch.tensor([5, middle, 0.002, 0]))
    drawn = model.schedule.draw((20_000,), torch.Generator().manual_seed(0)).log()
    assert abs(drawn.mean() + 0.4) < 0.03 and abs(drawn.std() - 1.2) < 0.03
    assert model.config.data_std == 0.5
    assert not [name for name, _ in model.named_parameters() if name.startswith("mean.")]


def test_every_part_of_the_past_counts(clip):
    model = shaken()
    noisy, level = torch.randn(2, 3, 64, 64), torch.full((2,), 0.5)
    video, actions = clip.video[:, :2], clip.actions[:, :2]
    clean = model(noisy, level, video, actions)
    others = [
        model(noisy, level, video, (actions + torch.tensor(place)) % 15)
        for place in ([0, 1], [1, 0])
    ]
    others += [
        model(noisy, level / 2, video, actions),
        model(noisy, level, video.flip(1), actions),
        model(noisy.flip(3), level, video, actions),
    ]
    assert all((other - clean).abs().max() > 1e-4 for other in others)


def test_gradients_reach_every_parameter(clip):
    model = shaken({"unroll": 2}).train()
    loss, logs = model.loss(clip)
    loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert set(logs) == {"psnr_copy", "psnr_clean"}


def test_its_file_opens_as_a_world(clip, tmp_path):
    model = shaken()
    save_model(model, "diffusion_unet", tmp_path / "a.safetensors", {})
    assert load_model(tmp_path / "a.safetensors").config == model.config
    prompt = clip.frames[:, :1], clip.actions[:, :0]  # shorter than the past that it sees
    frames = held(open_world(tmp_path / "a.safetensors"), *prompt, 7, 3)
    assert torch.equal(frames, held(DiffusionWorld(model), *prompt, 7, 3))
    assert not torch.equal(frames, held(DiffusionWorld(model, seed=1), *prompt, 7, 3))
    assert not torch.equal(frames, held(DiffusionWorld(model), *prompt, 8, 3))


def test_what_does_not_fit_is_refused(clip):
    with pytest.raises(WorkshopError, match=r"schedule edm.*with_mean to false"):
        make(with_mean=True)
    with pytest.raises(WorkshopError, match=r"model\.schedule 'cosine': choose flow or edm"):
        make(schedule="cosine")
    with pytest.raises(WorkshopError, match=r"model\.data_std"):
        make(data_std=0.0)
    with pytest.raises(WorkshopError, match=r"sampler 'best'"):
        make(sampler="best")
    unknown = Clip(clip.frames, torch.full_like(clip.actions, -1), clip.first)
    with pytest.raises(WorkshopError, match="actions must be 0 to 14, got -1"):
        make({"unroll": 1}).loss(unknown)
    with pytest.raises(WorkshopError, match="guidance"):
        held(DiffusionWorld(make(), guidance=2.0), clip.frames[:, :2], clip.actions[:, :1], 7, 1)

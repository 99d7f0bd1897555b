"""The diffusion U-Net: it learns clips and steering, and samples what its mean does not know."""

import pytest
import torch
import torch.nn.functional as F

from tests.models.columns import RIGHT, columns_clip, held, steering, train
from tests.shaking import shaken_weights
from workshop_lib.data.clip import frames_to_video
from workshop_lib.errors import WorkshopError
from workshop_lib.models.denoising import next_frame
from workshop_lib.models.diffusion_unet import DiffusionUNet, DiffusionUNetConfig
from workshop_lib.models.files import load_model, save_model
from workshop_lib.models.next_frame import NextFrameConfig
from workshop_lib.pretrained import load_pretrained
from workshop_lib.worlds.diffusion_world import DiffusionWorld
from workshop_lib.worlds.next_frame_world import NextFrameWorld
from workshop_lib.worlds.opening import open_world

MEAN = dict(frames=2, width=16, depth=1, middle=2, cond_dim=32)


def make(mean=None, **changes):
    torch.manual_seed(0)
    small = {"width": 16, "depth": 1, "middle": 2, **changes}
    return DiffusionUNet(DiffusionUNetConfig(NextFrameConfig(**MEAN | (mean or {})), **small))


def shaken(mean=None, **changes):
    """An untrained model whose every weight does something."""
    model = make(mean, **changes).eval()
    return shaken_weights(model)


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = make({"num_actions": 3, "short": 0.0, "unroll": 2}, size=32)
    return train(model, lambda: columns_clip(8, 4), steps=240)


def test_it_goes_where_the_action_says(trained):
    torch.manual_seed(1)
    assert min(steering(DiffusionWorld(trained))) > 0.9


def test_it_samples_what_its_mean_only_blurs(trained):
    """A column that comes newly into view is black or white. The mean is gray; samples are one of
    both, and both turn up."""
    torch.manual_seed(2)
    clips = columns_clip(64, 6)
    start, actions = clips.frames[:, :2], clips.actions[:, :1]
    new = {
        steps: frames_to_video(
            held(DiffusionWorld(trained, steps=steps), start, actions, RIGHT, 3)[:, -1]
        )[..., -6:].mean(dim=(1, 2, 3))
        for steps in (1, 8)
    }
    assert new[8].abs().mean() > new[1].abs().mean() + 0.07
    assert (new[8] > 0.3).float().mean() > 0.1
    assert (new[8] < -0.3).float().mean() > 0.1


def test_one_step_shows_the_mean(clip):
    model = shaken()
    prompt = clip.frames[:, :3], clip.actions[:, :2]
    pure = held(DiffusionWorld(model, steps=1), *prompt, 7, 3)
    mean = held(NextFrameWorld(model.mean), *prompt, 7, 3)
    assert (pure.int() - mean.int()).abs().max() <= 1
    sampled = held(DiffusionWorld(model, steps=2), *prompt, 7, 3)
    assert (pure.int() - sampled.int()).abs().float().mean() > 0.5


def test_a_fresh_one_believes_the_mean(clip):
    """Before training no noise is too much for it."""
    model = make().eval()
    frames = held(DiffusionWorld(model, steps=4), clip.frames[:, :3], clip.actions[:, :2], 7, 2)
    assert torch.equal(frames[:, -1], clip.frames[:, 2])


def test_seeds_make_the_difference(clip):
    model = shaken()
    prompt = clip.frames[:, :3], clip.actions[:, :2]
    one, again, other = (
        held(DiffusionWorld(model, seed=seed), *prompt, 7, 3) for seed in (0, 0, 1)
    )
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_a_remembered_past_is_the_past_looked_at_again(clip):
    model = shaken()
    led_by = F.pad(clip.actions[:, :-1], (1, 0), value=-1)
    stepwise = model.recall(clip.frames[:, :1], led_by[:, :1])
    for t in range(1, 5):
        stepwise = model.recall(clip.frames[:, t, None], led_by[:, t, None], stepwise)
    at_once = model.recall(clip.frames[:, :5], led_by[:, :5])
    frames = [
        next_frame(model, m, led_by[:, 5], 3, "euler", generator=torch.Generator().manual_seed(0))
        for m in (stepwise, at_once)
    ]
    assert torch.equal(*frames)


def test_every_part_of_the_past_counts(clip):
    model = shaken()
    noisy, level = torch.randn(2, 3, 64, 64), torch.full((2,), 0.5)
    video, actions, mean = clip.video[:, :2], clip.actions[:, :2], clip.video[:, 2]
    clean = model(noisy, level, video, actions, mean)
    others = [
        model(noisy, level, video, (actions + torch.tensor(place)) % 15, mean)
        for place in ([0, 1], [1, 0])
    ]
    others += [
        model(noisy, level / 2, video, actions, mean),
        model(noisy, level, video.flip(1), actions, mean),
        model(noisy.flip(3), level, video, actions, mean),
    ]
    assert all((other - clean).abs().max() > 1e-4 for other in others)


def test_it_learns_a_clip_by_heart(clip):
    model, clip = make({"noise": 0.0, "short": 0.0, "unroll": 4}), clip[:1]
    train(model, lambda: clip, steps=90)
    dream = model.predict(clip.frames[:, :2], clip.actions[:, :-1])
    error = frames_to_video(dream) - frames_to_video(clip.frames[:, 2:])
    assert 10 * torch.log10(4 / error.square().mean()) > 22


def test_the_mean_learns_from_its_own_error_alone(clip):
    """So that it stays the mean: the other network's error sends nothing into it."""
    model = shaken({"unroll": 1})
    found, wanted = (
        torch.autograd.grad(part.loss(clip)[0], list(model.mean.parameters()))
        for part in (model, model.mean)
    )
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-6)


def test_gradients_reach_every_parameter(clip):
    model = shaken({"unroll": 2}).train()
    model.loss(clip)[0].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_evaluation_is_the_same_each_time(clip):
    model = shaken({"unroll": 2})
    assert torch.equal(model.loss(clip)[0], model.loss(clip)[0])
    assert model.train().loss(clip)[0] != model.loss(clip)[0]
    assert {"psnr", "psnr_copy", "psnr_clean"} == set(model.loss(clip)[1])


def test_its_file_opens_as_a_world(clip, tmp_path):
    model = shaken()
    save_model(model, "diffusion_unet", tmp_path / "a.safetensors", {})
    again = load_model(tmp_path / "a.safetensors")
    assert again.config == model.config
    prompt = clip.frames[:, :3], clip.actions[:, :2]
    world = open_world(tmp_path / "a.safetensors", steps=2)
    assert torch.equal(
        held(world, *prompt, 7, 2), held(DiffusionWorld(model, steps=2), *prompt, 7, 2)
    )


def test_the_shipped_weights_compute_what_they_were_trained_for(clip):
    """To the bit: the network's residual, added to the mean."""
    model = load_pretrained("diffusion-unet-tiny")
    video, actions, level = clip.video[:, :4], clip.actions[:, :4], torch.tensor([0.3, 0.9])
    noisy = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mean = model.mean(video, actions)
        told = [model.level(1000 * level), *(model.actions[i](actions[:, i]) for i in range(4))]
        seen = F.pixel_unshuffle(torch.cat([video.flatten(1, 2), noisy, mean], dim=1), 4)
        maps = model.head(model.body(seen, torch.stack(told).sum(dim=0)))
        assert torch.equal(
            model(noisy, level, video, actions, mean), mean + F.pixel_shuffle(maps, 4)
        )


def test_what_does_not_fit_is_refused(clip):
    with pytest.raises(WorkshopError, match=r"data.length.*needs 8"):
        make({"unroll": 6}).loss(clip)
    with pytest.raises(WorkshopError, match=r"model\.size"):
        make(size=32).loss(clip)
    with pytest.raises(WorkshopError, match=r"model\.size"):
        make(size=36)
    with pytest.raises(WorkshopError, match="color"):
        make({"channels": 1})
    with pytest.raises(WorkshopError, match="guidance"):
        held(DiffusionWorld(make(), guidance=2.0), clip.frames[:, :2], clip.actions[:, :1], 7, 1)

"""The diffusion U-Net: it learns clips and steering, and samples what its mean does not know."""

import pytest
import torch
import torch.nn.functional as F

from tests.conftest import SAMPLE
from workshop_lib.data.clip import Clip, frames_to_video, video_to_frames
from workshop_lib.data.clips import ClipBatches, ClipConfig
from workshop_lib.data.splits import split_shards
from workshop_lib.errors import WorkshopError
from workshop_lib.models.denoising import next_frame
from workshop_lib.models.diffusion_unet import DiffusionUNet, DiffusionUNetConfig
from workshop_lib.models.files import load_model, save_model
from workshop_lib.models.next_frame import NextFrameConfig
from workshop_lib.worlds.diffusion_world import DiffusionWorld
from workshop_lib.worlds.next_frame_world import NextFrameWorld
from workshop_lib.worlds.opening import open_world

MEAN = dict(frames=2, width=16, depth=1, middle=2, cond_dim=32)
LEFT, STAY, RIGHT = 0, 1, 2


def make(mean=None, **changes):
    torch.manual_seed(0)
    small = {"width": 16, "depth": 1, "middle": 2, **changes}
    return DiffusionUNet(DiffusionUNetConfig(NextFrameConfig(**MEAN | (mean or {})), **small))


def shaken(mean=None, **changes):
    """An untrained model whose every weight does something."""
    model = make(mean, **changes).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.03 * torch.randn_like(p))
    return model


def train(model, clips, steps, lr=3e-3):
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=lr / 30)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(clips())[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@pytest.fixture(scope="module")
def clip():
    """Two real clips of 6 frames."""
    shards = split_shards(SAMPLE / "easy", "train")
    return next(iter(ClipBatches(shards, ClipConfig(length=6, batch_size=2, lanes=2))))


def game(count, length, size=32):
    """A made-up game: the camera moves 4 pixels left or right over a level whose ground, from one
    column of 8 pixels to the next, is high or low: black or white, which nobody can foresee."""
    actions = torch.randint(0, 3, (count, length))
    level = torch.where(torch.rand(count, 1, 1, 32) < 0.5, -0.8, 0.8)
    level = level.expand(-1, 3, size, -1).repeat_interleave(8, dim=-1)
    camera = 4 * (actions - 1).cumsum(dim=1)
    camera = 112 + F.pad(camera[:, :-1], (1, 0))
    columns = camera[:, :, None] + torch.arange(size)  # B T W
    frames = torch.stack([level[b][..., columns[b]].movedim(2, 0) for b in range(count)])
    return Clip(video_to_frames(frames), actions, torch.zeros(count, length, dtype=torch.bool))


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = make({"num_actions": 3, "short": 0.0, "unroll": 2}, size=32)
    return train(model, lambda: game(8, 4), steps=240)


def held(world, frames, actions, key, count):
    state, shown = world.begin(frames, actions), []
    for _ in range(count):
        frame, state = world.step(state, torch.full((len(frames),), key))
        shown.append(frame)
    return torch.stack(shown, dim=1)


def test_it_goes_where_the_action_says(trained):
    """Held-out levels: after two steps, each dream is nearer to the real future of its own action
    than to that of the other."""
    torch.manual_seed(1)
    clips = game(32, 6)
    start, actions = clips.frames[:, :2], clips.actions[:, :1]
    now = frames_to_video(start[:, -1])
    for key, other in ((LEFT, RIGHT), (RIGHT, LEFT), (STAY, LEFT)):
        dream = frames_to_video(held(DiffusionWorld(trained), start, actions, key, 2)[:, -1])
        error = {
            k: (dream[..., 8:-8] - now[..., 8 + 8 * (k - 1) : 24 + 8 * (k - 1)])
            .square()
            .mean(dim=(1, 2, 3))
            for k in (key, other)
        }
        seen = (
            now[..., 8 + 8 * (key - 1) : 24 + 8 * (key - 1)]
            != now[..., 8 + 8 * (other - 1) : 24 + 8 * (other - 1)]
        )
        differ = seen.flatten(1).any(dim=1)
        assert (error[key] < error[other])[differ].float().mean() > 0.9


def test_it_samples_what_its_mean_only_blurs(trained):
    """A column that comes newly into view is black or white. The mean is gray; samples are one of
    both, and both turn up."""
    torch.manual_seed(2)
    clips = game(64, 6)
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

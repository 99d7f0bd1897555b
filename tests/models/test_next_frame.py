"""The next-frame predictor: it learns clips and steering, and says what does not fit."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.shaking import shaken_weights
from workshop_lib.data.clip import Clip, frames_to_video, video_to_frames
from workshop_lib.errors import WorkshopError
from workshop_lib.models.files import load_model, save_model
from workshop_lib.models.next_frame import NextFrame, NextFrameConfig

SMALL = dict(frames=3, width=16, depth=1, middle=2, cond_dim=32)
LEFT, STAY, RIGHT = 0, 1, 2


def make(**changes):
    torch.manual_seed(0)
    return NextFrame(NextFrameConfig(**{**SMALL, **changes}))


def shaken(**changes):
    """An untrained model whose every weight does something."""
    model = make(**changes)
    return shaken_weights(model)


def scrolling(count, length, size=32):
    """A made-up game: the camera moves 2 pixels left or right over a smooth random level."""
    actions = torch.randint(0, 3, (count, length))
    level = F.interpolate(torch.rand(count, 3, 12, 48), scale_factor=4, mode="bilinear")
    camera = 2 * (actions - 1).cumsum(dim=1)
    camera = 80 + torch.cat([torch.zeros(count, 1, dtype=torch.int64), camera[:, :-1]], dim=1)
    columns = camera[:, :, None] + torch.arange(size)  # B T W
    frames = torch.stack([level[b, :, :size][..., columns[b]].movedim(2, 0) for b in range(count)])
    first = torch.zeros(count, length, dtype=torch.bool)
    return Clip(video_to_frames(frames * 2 - 1), actions, first)


def train(model, clips, steps, lr=3e-3):
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95))
    for _ in range(steps):
        loss, _ = model.loss(clips())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    return train(make(num_actions=3), lambda: scrolling(16, 4), steps=200)


def test_it_learns_clips_by_heart(clip):
    model = make(noise=0.0, short=0.0, unroll=3)
    copying = float(model.eval().loss(clip)[1]["psnr_copy"])
    train(model, lambda: clip, steps=120)
    dream = model.predict(clip.frames[:, :3], clip.actions[:, :-1])
    error = frames_to_video(dream) - frames_to_video(clip.frames[:, 3:])
    assert 10 * torch.log10(4 / error.square().mean()) > max(24.0, copying + 3)


def test_it_goes_where_the_action_says(trained):
    """Held-out levels, three steps of its own: each dream is nearer to the real future of its own
    action than to that of the other."""
    torch.manual_seed(1)
    clips = scrolling(16, 6)
    start, actions = clips.frames[:, :3], clips.actions[:, :2]
    level = frames_to_video(start[:, -1])
    dreams = {
        a: trained.predict(start, torch.cat([actions, torch.full((16, 3), a)], dim=1))[:, -1]
        for a in (LEFT, STAY, RIGHT)
    }
    inner = {a: frames_to_video(dream)[..., 8:-8] for a, dream in dreams.items()}
    real = {a: level[..., 8 + 6 * (a - 1) : 24 + 6 * (a - 1)] for a in dreams}
    for a in dreams:
        errors = {b: (inner[a] - real[b]).square().mean(dim=(1, 2, 3)) for b in dreams}
        for b in set(dreams) - {a}:
            assert (errors[a] < errors[b]).float().mean() > 0.9, (a, b)


def test_it_says_how_far_the_picture_moves(trained):
    clips = scrolling(8, 4)
    video = trained.see(clips.frames[:, :3])
    for action in (LEFT, STAY, RIGHT):
        pressed = torch.cat([clips.actions[:, :2], torch.full((8, 1), action)], dim=1)
        _, displacement = trained.parts(video, pressed)
        right = displacement[:, 0, 8:-8, 8:-8].mean()
        assert abs(right + 2 * (action - 1)) < 0.7  # the camera goes right, the picture left


def test_it_trains_on_short_pasts_as_prompts_are_filled_up(clip):
    model = make(frames=4, short=1.0)
    past, pressed = model.shorten(clip.video[:, :4], clip.actions[:, :4])
    for b in range(2):
        kept = 4 - int((pressed[b] == model.null).sum())
        assert 1 <= kept < 4
        frames, actions = model.prompt(
            clip.frames[b, None, 4 - kept : 4], pressed[b, None, -kept:-1]
        )
        assert torch.equal(past[b], frames_to_video(frames)[0])
        assert torch.equal(pressed[b, :-1], actions[0])
    whole = make(frames=4, short=0.0).shorten(clip.video[:, :4], clip.actions[:, :4])
    assert torch.equal(whole[0], clip.video[:, :4]) and torch.equal(whole[1], clip.actions[:, :4])


def with_a_mark(clips):
    """The same with a bright square in the middle of each frame, where a player would stand."""
    frames = clips.frames.clone()
    frames[:, :, 13:19, 13:19] = 255
    return replace(clips, frames=frames)


def test_a_spoiled_past_teaches_to_put_things_right():
    """The mark, which is in every real frame, is painted over in the past: who was trained on
    spoiled pasts draws it again."""
    brighter = {}
    for spoiled in (0.0, 0.9):
        torch.manual_seed(0)
        model = make(num_actions=3, spoiled=spoiled)
        train(model, lambda: with_a_mark(scrolling(16, 4)), steps=150)
        clips = scrolling(16, 9)
        clips.frames[:, :3, 12:20, 12:20] = clips.frames[:, :3, 4:12, 4:12]
        dream = model.predict(clips.frames[:, :3], clips.actions[:, :-1])[:, -1].float()
        around = dream[:, 8:24, 8:24].mean(dim=(1, 2, 3))
        brighter[spoiled] = (dream[:, 14:18, 14:18].mean(dim=(1, 2, 3)) - around).mean()
    assert brighter[0.9] > 60 > 20 > brighter[0.0]


def test_every_action_of_the_past_counts(clip):
    model = shaken()
    video, actions = clip.video[:, :3], clip.actions[:, :3].clone()
    frame = model(video, actions)
    for place in range(3):
        other = actions.clone()
        other[:, place] = (other[:, place] + 1) % 15
        assert (model(video, other) - frame).abs().max() > 1e-4


def test_the_loss_is_what_it_says(clip):
    """In evaluation: no noise, nothing cut off, and the mean over its own predictions, through
    which the gradients go back."""
    for name, measure in (
        ("mse", F.mse_loss),
        ("huber", F.smooth_l1_loss),
        ("l1", F.l1_loss),
    ):
        model = shaken(loss=name, unroll=2).eval()
        video, actions = clip.video, clip.actions
        one = model(video[:, :3], actions[:, :3])
        two = model(torch.cat([video[:, 1:3], one[:, None]], dim=1), actions[:, 1:4])
        expected = (measure(one, video[:, 3]) + measure(two, video[:, 4])) / 2
        loss, logs = model.loss(clip)
        assert torch.allclose(loss, expected, atol=1e-6)
        weights = list(model.parameters())
        for found, wanted in zip(
            torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights), strict=True
        ):
            assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-6)
        assert {"psnr", "psnr_copy", "psnr_end"} == set(logs)


def test_training_noise_is_not_there_in_evaluation(clip):
    model = shaken(short=0.0)
    assert model.train().loss(clip)[0] != model.loss(clip)[0]
    assert torch.equal(model.eval().loss(clip)[0], model.loss(clip)[0])


def test_unrolling_begins_after_so_many_steps(clip, tmp_path):
    model = shaken(unroll=3, unroll_after=2).train()

    def unrolled():
        return "psnr_end" in model.loss(clip)[1]

    assert unrolled() is False
    model.eval()
    assert unrolled() is True  # always, and it does not count
    save_model(model, "next_frame", tmp_path / "a.safetensors", {})
    model = load_model(tmp_path / "a.safetensors").train()  # and training goes on where it was
    assert [unrolled() for _ in range(3)] == [False, True, True]


@pytest.mark.parametrize("unroll", [1, 2])
def test_gradients_reach_every_parameter(unroll, clip):
    model = shaken(unroll=unroll).train()
    model.loss(clip)[0].backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_a_gray_model_sees_and_shows_gray(clip):
    model = shaken(channels=1).eval()
    dream = model.predict(clip.frames[:, :3], clip.actions[:, :4])
    assert dream.shape == (2, 2, 64, 64, 3)
    assert torch.equal(dream[..., 0], dream[..., 1]) and torch.equal(dream[..., 0], dream[..., 2])
    gray = clip.frames.float().mean(dim=-1, keepdim=True).round().to(torch.uint8)
    near = model.predict(gray[:, :3].expand(-1, -1, -1, -1, 3).contiguous(), clip.actions[:, :4])
    assert (near.int() - dream.int()).abs().float().mean() < 1
    assert torch.isfinite(model.train().loss(clip)[0])


def test_an_old_form_model_sees_gray_pictures_of_its_own_size(clip):
    model = shaken(channels=1, size=84, unroll=2).eval()
    assert model.see(clip.frames[:, :3]).shape == (2, 3, 1, 84, 84)
    dream = model.predict(clip.frames[:, :3], clip.actions[:, :4])
    assert dream.shape == (2, 2, 64, 64, 3)
    # what it shows of an untrained prediction is the last frame, there and back
    copied = make(channels=1, size=84).eval().predict(clip.frames[:, :3], clip.actions[:, :3])
    gray = clip.frames[:, 2].float().mean(dim=-1, keepdim=True)
    assert (copied[:, 0].float() - gray).abs().mean() < 6
    assert torch.isfinite(model.train().loss(clip)[0])


def test_several_frames_from_one_pass_learn_clips_too(clip):
    model = make(ahead=2, noise=0.0, short=0.0)
    train(model, lambda: clip, steps=120)
    dream = model.predict(clip.frames[:, :3], clip.actions[:, :4])
    error = frames_to_video(dream) - frames_to_video(clip.frames[:, 3:5])
    assert 10 * torch.log10(4 / error.square().mean()) > 24


def test_several_frames_come_by_the_actions_between_them(clip):
    model = shaken(ahead=3).eval()
    video, actions = model.see(clip.frames[:, :3]), clip.actions[:, :5].clone()
    frames = model.several(video, actions)
    assert frames.shape == (2, 3, 3, 64, 64)
    for place in range(5):
        other = actions.clone()
        other[:, place] = (other[:, place] + 1) % 15
        assert (model.several(video, other) - frames).abs().max() > 1e-4
    # what is not known yet is held
    held = torch.cat([actions[:, :3], actions[:, 2:3], actions[:, 2:3]], dim=1)
    assert torch.equal(model(video, actions[:, :3]), model.several(video, held)[:, 0])
    # a rollout of 4 is one pass of 3 and one more frame
    rollout = model.predict(clip.frames[:, :3], clip.actions[:, :6])
    assert torch.equal(rollout[:, :3], model.predict(clip.frames[:, :3], clip.actions[:, :5]))


def test_a_saved_model_is_the_same_one(tmp_path, clip):
    model = shaken().eval()
    save_model(model, "next_frame", tmp_path / "a.safetensors", {})
    again = load_model(tmp_path / "a.safetensors")
    assert again.config == model.config
    inputs = clip.frames[:, :3], clip.actions[:, :5]
    assert torch.equal(again.predict(*inputs), model.predict(*inputs))


def test_the_preview_begins_with_the_real_frames(clip):
    rows = shaken().eval().preview(clip)
    assert rows["dream"].shape == rows["real"].shape == clip.frames.shape
    assert torch.equal(rows["dream"][:, :3], clip.frames[:, :3])
    assert not torch.equal(rows["dream"][:, 3:], clip.frames[:, 3:])


def test_what_does_not_fit_is_refused(clip):
    with pytest.raises(WorkshopError, match=r"data.length.*needs 7"):
        make(unroll=4).loss(clip)
    with pytest.raises(WorkshopError, match="unknown"):
        make().loss(replace(clip, actions=torch.full_like(clip.actions, -1)))
    with pytest.raises(WorkshopError, match="0 to 1"):
        make(num_actions=2).loss(replace(clip, actions=torch.full_like(clip.actions, 7)))
    for wrong in ({"unroll": 0}, {"noise": -1}, {"short": 2}, {"unroll_after": -1}):
        with pytest.raises(WorkshopError, match=rf"model\.{next(iter(wrong))}"):
            NextFrameConfig(**{**SMALL, **wrong})

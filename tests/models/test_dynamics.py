"""MaskGIT dynamics: learns by heart and by action, trains on what play asks, leaks nothing."""

import math

import pytest
import torch
import torch.nn.functional as F

from tests.shaking import shaken_weights
from workshop_lib.data.clip import Clip
from workshop_lib.errors import WorkshopError
from workshop_lib.models.dynamics import Dynamics
from workshop_lib.models.dynamics_config import DynamicsConfig
from workshop_lib.models.files import load_model, save_model

GRID, CODES = (4, 4), 27
SMALL = dict(grid=GRID, num_codes=CODES, code_factors=(3, 3, 3), dim=48, depth=2, heads=2, window=4)

CLEAN = dict(corrupt=0.0, masked_past=0.0)


@pytest.fixture(autouse=True)
def one_thread():
    """Small steps by the thousand: two threads on busy cores spend 100 times as long waiting."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make(**changes):
    torch.manual_seed(0)
    return Dynamics(DynamicsConfig(**{**SMALL, **changes}))


def clip_of(tokens, actions):
    batch, frames = actions.shape
    nothing = torch.zeros(batch, frames, 1, 1, 3, dtype=torch.uint8)
    first = torch.zeros(batch, frames, dtype=torch.bool)
    return Clip(nothing, actions, first, tokens)


def random_clip(batch=3, frames=5, grid=GRID, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(CODES, (batch, frames, *grid), generator=generator)
    return clip_of(tokens, torch.randint(15, (batch, frames), generator=generator))


def learn(model, clip, steps, latents=None, lr=5e-3):
    """The mean of the last ten losses; the learning rate falls to zero."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95))
    falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total_iters=steps)
    losses = []
    for _ in range(steps):
        loss, _ = model.train().loss(clip() if callable(clip) else clip, latents)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        falling.step()
        losses.append(loss.item())
    return sum(losses[-10:]) / 10


def dream(model, first, actions, steps):
    """Greedy: from a first frame (B, h, w) and actions (B, T - 1) to all T frames."""
    model, frames = model.eval(), [first]
    cache, led_by = model.new_cache(len(first)), torch.full((len(first),), -1)
    for t in range(actions.shape[1]):
        with torch.no_grad():
            model(frames[-1][:, None], led_by[:, None], cache=cache)
        led_by = actions[:, t]
        frames.append(model.generate(cache, led_by, steps=steps, temperature=0.0))
    return torch.stack(frames, dim=1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"action_input": "prepend"},
        {"group": 2},
        {"body": "conv"},
        {"code_factors": ()},
        {"schedule": "arccos"},
    ],
    ids=str,
)
def test_it_learns_clips_by_heart_and_dreams_them_again(changes):
    """Longer than its window, in one step of unmasking, in four and in eight."""
    clip = random_clip()
    model = make(**{**CLEAN, **changes})
    assert learn(model, clip, 110) < 0.03
    for steps in (1, 4, 8):
        again = dream(model, clip.tokens[:, 0], clip.actions[:, :-1], steps)
        assert (again == clip.tokens).float().mean() > 0.99


def forked_clip():
    """Two clips that are equal but for the action after frame 2, and the frames from there on."""
    clip = random_clip(batch=2)
    clip.tokens[1, :3], clip.actions[1] = clip.tokens[0, :3], clip.actions[0]
    clip.actions[:, 2] = torch.tensor([1, 7])
    return clip


@pytest.mark.parametrize("how", ["add", "prepend", "conv", "latent"])
def test_the_action_decides_what_comes(how):
    clip, latents = forked_clip(), None
    if how == "latent":
        model, latents = make(drive="latent", num_actions=8, **CLEAN), clip.actions % 8
    elif how == "conv":
        model = make(body="conv", **CLEAN)
    else:
        model = make(action_input=how, **CLEAN)
    assert learn(model, clip, 110, latents=latents) < 0.03
    pressed = clip.actions[:, :-1] if latents is None else latents[:, :-1]
    for actions, future in ((pressed, clip.tokens), (pressed.flip(0), clip.tokens.flip(0))):
        again = dream(model, clip.tokens[:, 0], actions, steps=4)
        assert (again == future).float().mean() > 0.99


def test_without_a_drive_it_cannot_know_what_comes():
    clip = forked_clip()
    model = make(drive="none", **CLEAN)
    learn(model, clip, 30)
    past, led_by = clip.tokens[:, :3], torch.full((2, 3), -1)
    with torch.no_grad():
        cache = model.eval().new_cache(2)
        model(past, led_by, cache=cache)
        draft = torch.full((2, 1, *GRID), CODES)
        logits = model.logits(model(draft, clip.actions[:, 2:3], cache=cache, write=False))
    assert torch.allclose(logits[0], logits[1], atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"action_input": "prepend"}, {"body": "conv"}], ids=str)
def test_the_loss_is_what_play_asks_at_every_moment(changes):
    """From the cache, frame by frame: the same drafts, and the true tokens as targets."""
    clip, model = random_clip(frames=8), make(**changes).eval()
    loss, logs = model.loss(clip)
    task = model.task(clip.tokens)
    led_by = F.pad(clip.actions[:, :-1], (1, 0), value=-1)
    cache, asked, told = model.new_cache(3), [], []
    with torch.no_grad():
        for t in range(7):
            model(task.past[:, t : t + 1], led_by[:, t : t + 1], cache=cache)
            draft = task.drafts[:, t : t + 1]
            features = model(draft, led_by[:, t + 1 : t + 2], cache=cache, write=False)
            told.append(model.logits(features))
            asked.append(clip.tokens[:, t + 1 : t + 2])
    logits, targets = torch.cat(told, dim=1), torch.cat(asked, dim=1)
    expected = F.cross_entropy(logits[task.masked], targets[task.masked])
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=0)
    right = logits.argmax(-1) == targets
    assert math.isclose(logs["accuracy"], right[task.masked].float().mean(), abs_tol=1e-6)
    assert math.isclose(logs["accuracy_whole"], right[task.whole].float().mean(), abs_tol=1e-6)
    copied = clip.tokens[:, :-1] == targets
    assert math.isclose(logs["accuracy_copy"], copied[task.whole].float().mean(), abs_tol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [{}, {"action_input": "prepend"}, {"group": 2}, {"body": "conv"}, {"window": 2}],
    ids=str,
)
def test_the_newest_frame_may_go_into_the_cache_on_the_way(changes):
    """As if the model had been called on it, whether or not there was a past before it."""
    clip, model = random_clip(frames=9), shaken_weights(make(**changes), 0.2).eval()
    led_by = F.pad(clip.actions[:, :-1], (1, 0), value=-1)
    called, lacking = model.new_cache(3), model.new_cache(3)
    for t in range(8):
        with torch.no_grad():
            model(clip.tokens[:, t : t + 1], led_by[:, t : t + 1], cache=called)
        newest = clip.tokens[:, t], led_by[:, t]
        dice = torch.Generator().manual_seed(t)
        expected = [*model.unmasking(called, led_by[:, t + 1], generator=dice)]
        for given in (newest, None):  # the second time it is there
            how = {"newest": given, "generator": dice.manual_seed(t)}
            stages = [*model.unmasking(lacking, led_by[:, t + 1], **how)]
            assert torch.equal(torch.stack(stages), torch.stack(expected))


@pytest.mark.parametrize("body", ["transformer", "conv"])
@torch.no_grad()
def test_beside_the_newest_frame_a_draft_gets_the_logits_of_a_pass_of_its_own(body):
    """In float64, where every difference shows."""
    clip, model = random_clip(frames=9), shaken_weights(make(body=body), 0.2).eval().double()
    led_by = F.pad(clip.actions[:, :-1], (1, 0), value=-1)
    apart, together = model.new_cache(3), model.new_cache(3)
    for t in range(8):
        model(clip.tokens[:, t : t + 1], led_by[:, t : t + 1], cache=apart)
        draft = torch.randint(CODES + 1, (3, 1, *GRID))
        both = torch.cat([clip.tokens[:, t : t + 1], draft], dim=1), led_by[:, t : t + 2]
        logits = model.logits(model(*both, cache=together, drafts=True))[:, 1:]
        alone = model(draft, led_by[:, t + 1 : t + 2], cache=apart, write=False)
        torch.testing.assert_close(logits, model.logits(alone), atol=1e-10, rtol=0)


def test_masked_tokens_leave_no_trace_in_what_the_model_sees():
    clip, model = random_clip(), make().eval()
    task = model.task(clip.tokens)
    other = clip.tokens.clone()
    other[:, -1][task.masked[:, -1]] += 1
    other %= CODES
    again = model.task(other)
    assert all(torch.equal(a, b) for a, b in zip(task, again, strict=True))
    assert model.loss(clip)[0] != model.loss(clip_of(other, clip.actions))[0]


def test_chance_cannot_be_foreseen():
    """Frames of fresh noise: a leak of the answer, or of a later frame, would show as a loss
    below that of guessing."""
    model = make(**CLEAN)
    seeds = iter(range(10_000))
    assert learn(model, lambda: random_clip(batch=5, seed=next(seeds)), 60) > math.log(CODES) - 0.02


def test_a_still_picture_is_foreseen():
    """And where the answer is there to be seen, it is found, in clips never met before."""
    model = make(**CLEAN, code_factors=())
    seeds = iter(range(10_000))

    def still():
        clip = random_clip(batch=5, seed=next(seeds))
        return clip_of(clip.tokens[:, :1].repeat(1, 5, 1, 1), clip.actions)

    assert learn(model, still, 100) < 0.1
    _, logs = model.eval().loss(still())
    assert logs["accuracy_whole"] > 0.95 and logs["accuracy_copy"] == 1


def test_evaluation_asks_the_same_every_time_and_training_does_not():
    clip, model = random_clip(), make()
    assert model.eval().loss(clip)[0] == model.loss(clip)[0]
    assert model.train().loss(clip)[0] != model.loss(clip)[0]
    torch.manual_seed(5)
    once = model.loss(clip)[0]
    torch.manual_seed(5)
    assert model.loss(clip)[0] == once


def test_the_past_can_be_what_the_model_itself_would_draw():
    """In a share of the clips: the drafts, their masks filled with what it says, here always 5."""
    model, clip = make(own_past=0.5), random_clip(batch=8)
    with torch.no_grad():
        model.output_bias[5] = 99
    task, led_by = model.train().task(clip.tokens), torch.full((8, 5), -1)
    own = model._own_past(task.past, task.drafts, led_by)
    assert torch.equal(own[4:], task.past[4:]) and torch.equal(own[:, 0], task.past[:, 0])
    masked, drawn = task.masked[:4, :-1], own[:4, 1:]
    assert (drawn[masked] == 5).all()
    assert torch.equal(drawn[~masked], clip.tokens[:4, 1:-1][~masked])


@pytest.mark.parametrize("key", ["own_past", "spoiled"])
def test_pasts_are_made_worse_in_training_alone(key):
    losses = {}
    for share in (0.0, 1.0):
        model = make(**{key: share}, **CLEAN)
        for training in (True, False):
            torch.manual_seed(1)
            losses[share, training] = float(model.train(training).loss(random_clip())[0].detach())
    assert losses[0, False] == losses[1, False]
    assert losses[0, True] != losses[1, True]


def test_gradients_reach_every_parameter():
    for changes in ({}, {"action_input": "prepend"}, {"group": 2}):
        model = make(**changes, masked_past=1.0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(2):
            optimizer.zero_grad()
            model.loss(random_clip())[0].backward()
            optimizer.step()
        still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert still == []


def test_unknown_actions_are_one_of_their_own():
    clip, model = random_clip(), make().eval()
    unknown = clip_of(clip.tokens, torch.full_like(clip.actions, -1))
    assert model.loss(unknown)[0] != model.loss(clip)[0]
    # the last action of a clip leads out of it
    other = clip.actions.clone()
    other[:, -1] = (other[:, -1] + 1) % 15
    assert model.loss(clip_of(clip.tokens, other))[0] == model.loss(clip)[0]


@pytest.mark.parametrize(
    "changes", [{}, {"group": 2, "action_input": "prepend"}, {"body": "conv"}], ids=str
)
def test_the_copy_for_play_computes_the_same(changes):
    model = make(**changes)
    learn(model, random_clip(), 20)
    player, clip = model.eval().for_play(), random_clip()
    led_by = F.pad(clip.actions[:, :-1], (1, 0), value=-1)
    with torch.no_grad():
        torch.testing.assert_close(
            player.logits(player(clip.tokens, led_by)),
            model.logits(model(clip.tokens, led_by)),
            atol=1e-4,
            rtol=1e-4,
        )
    assert model.codes.digits is not None and model.outputs.own.requires_grad


def test_a_saved_dynamics_is_the_same_one(tmp_path):
    model, clip = make(group=2).eval(), random_clip()
    save_model(model, "dynamics", tmp_path / "a.safetensors", {})
    again = load_model(tmp_path / "a.safetensors")
    assert again.config == model.config
    assert torch.equal(again.loss(clip)[0], model.loss(clip)[0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"code_factors": (3, 3)}, "code_factors .* must multiply to model.num_codes 27"),
        ({"grid": (4, 3), "group": 2}, "must be a multiple of model.group 2"),
        ({"corrupt": 0.5}, "model.corrupt must be 0 to 0.2"),
        ({"masked_past": -0.1}, "model.masked_past must be 0 to 1"),
        ({"own_past": 1.5}, "model.own_past must be 0 to 1"),
        ({"spoiled": -1}, "model.spoiled must be 0 to 1"),
        ({"num_actions": 0}, "model.num_actions must be 1 or more"),
        ({"dim": 30}, "dim: 30 is no multiple"),
    ],
)
def test_impossible_configs_are_named(wrong, message):
    with pytest.raises(WorkshopError, match=message):
        DynamicsConfig(**{**SMALL, **wrong})


def test_wrong_clips_are_refused():
    model, clip = make(), random_clip()
    with pytest.raises(WorkshopError, match="workshop encode"):
        model.loss(Clip(clip.frames, clip.actions, clip.first))
    with pytest.raises(WorkshopError, match="actions must be 0 to 14, or -1 for unknown, got 15"):
        model.loss(clip_of(clip.tokens, torch.full_like(clip.actions, 15)))
    with pytest.raises(WorkshopError, match="another tokenizer"):
        model.loss(random_clip(grid=(2, 8)))
    with pytest.raises(WorkshopError, match=r"model\.num_codes is 27"):
        model.loss(clip_of(clip.tokens + CODES, clip.actions))
    with pytest.raises(WorkshopError, match=r"data\.length must be 2"):
        model.loss(clip_of(clip.tokens[:, :1], clip.actions[:, :1]))
    with pytest.raises(WorkshopError, match="only with drive 'latent'; here it is '"):
        model.loss(clip, clip.actions)
    with pytest.raises(WorkshopError, match="only with drive 'latent'; here it is '"):
        make(drive="latent").loss(clip)

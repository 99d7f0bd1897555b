"""The model of endings: it learns what ends a level, with chances that hold."""

from dataclasses import replace

import pytest
import torch

from workshop_lib.data.clip import Clip
from workshop_lib.errors import WorkshopError
from workshop_lib.models.termination import ON, OVER, REWARDED, Termination, TerminationConfig

SMALL = TerminationConfig(side=16, width=8, hidden=16, num_actions=3)
GO = 2


def touching(count, length=3, rare=0.1, sure=1.0):
    """A made-up game: who goes on beside something bright in the middle has it, and wins if it is
    yellow; something bright near the border is scenery. With `sure` below 1 the level may go on."""
    frames = torch.randint(0, 60, (count, length, 24, 24, 3), dtype=torch.uint8)
    kind = torch.multinomial(torch.tensor([1 - 3 * rare, rare, rare, rare]), count, True)
    frames[kind == 1, -1, 10:14, 12:16, :2] = 250  # yellow
    frames[kind == 2, -1, 10:14, 12:16, 2] = 250  # blue
    frames[kind == 3, -1, :3, :3] = 250
    actions = torch.randint(0, 3, (count, length))
    ending = torch.zeros(count, length, dtype=torch.int64)
    ends = (actions[:, -1] == GO) & (torch.rand(count) < sure)
    ending[:, -1] = torch.where(ends, kind * (kind < 3), ON)
    return Clip(frames, actions, torch.zeros(count, length, dtype=torch.bool), ending=ending)


def learn(**game):
    torch.manual_seed(0)
    model = Termination(SMALL)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        loss, _ = model.loss(touching(512, **game))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def trained():
    return learn()


def test_it_learns_what_ends_a_level_and_how(trained) -> None:
    torch.manual_seed(1)
    clip = touching(2000)
    said, target = trained.ending(clip.frames, clip.actions[:, -1]), clip.ending[:, -1]
    for kind in (ON, REWARDED, OVER):
        assert (said[target == kind] == kind).float().mean() > 0.95
    loss, logs = trained.loss(clip)
    assert loss < 0.2 and logs["found"] > 0.95 and logs["false"] < 10


def test_chances_hold_though_most_frames_are_left_out() -> None:
    """Where one touch of three ends the level, one touch of three is what it says, though in
    training nearly all touches that do not were left out."""
    model = learn(rare=0.05, sure=1 / 3)
    torch.manual_seed(1)
    clip = touching(2000, rare=0.3)
    touch = (clip.frames[:, -1, 11, 13].amax(dim=-1) == 250) & (clip.actions[:, -1] == GO)
    chance = 1 - model(clip.frames, clip.actions[:, -1]).softmax(dim=1)[:, ON]
    assert 0.2 < chance[touch].mean() < 0.5
    assert chance[~touch].mean() < 0.05


def test_only_the_middle_the_last_frames_and_the_action_count(trained) -> None:
    clip = touching(32)
    action = clip.actions[:, -1]
    said = trained(clip.frames, action)
    border = clip.frames.clone()
    border[:, :, :4] = 255
    assert torch.equal(trained(border, action), said)
    longer = torch.cat([border, clip.frames], dim=1)
    assert torch.equal(trained.ending(longer, action), trained.ending(clip.frames, action))
    assert not torch.allclose(trained(clip.frames, (action + 1) % 3), said)
    one = clip.frames[:, -1:]
    still = one.repeat(1, 3, 1, 1, 1)
    assert torch.equal(trained.ending(one, action), trained.ending(still, action))


def test_frames_whose_end_nobody_knows_are_left_out() -> None:
    torch.manual_seed(0)
    model, clip = Termination(SMALL).eval(), touching(8)
    some = replace(clip, ending=torch.where(torch.arange(8)[:, None] < 4, clip.ending, -1))
    assert torch.equal(model.loss(some)[0], model.loss(clip[:4])[0])


def test_what_does_not_fit_is_refused(trained) -> None:
    clip = touching(4)
    with pytest.raises(WorkshopError, match="nobody recorded how these levels ended"):
        trained.loss(replace(clip, ending=None))
    with pytest.raises(WorkshopError, match=r"data.length must be 3 or more"):
        trained.loss(touching(4, length=2))
    with pytest.raises(WorkshopError, match="actions must be 0 to 2"):
        trained(clip.frames, torch.tensor([0, 1, 2, 3]))
    with pytest.raises(WorkshopError, match=r"H and W 16 or more"):
        trained(clip.frames[:, :, :12], clip.actions[:, -1])
    for wrong in (dict(frames=0), dict(side=30), dict(against=0)):
        with pytest.raises(WorkshopError, match=f"model.{next(iter(wrong))} must be"):
            TerminationConfig(**wrong)

"""A dream keeps to its own codes: what a wall has hidden comes back as it was."""

import pytest
import torch

from workshop_lib.data.clip import Clip
from workshop_lib.errors import WorkshopError
from workshop_lib.models.dynamics import Dynamics
from workshop_lib.models.dynamics_config import DynamicsConfig
from workshop_lib.models.files import load_model, save_model
from workshop_lib.models.palette import Palette, smoothed

SHAPE = dict(grid=(2, 2), num_codes=4, dim=32, depth=1, heads=2, window=2)
CLEAN = dict(corrupt=0.0, masked_past=0.0)
WALL, THEMES = 0, (1, 2)
OPEN, SHUT = 0, 1


def levels(batch, frames, seed):
    """Each in a theme of its own, which a wall hides whenever the action is SHUT."""
    generator = torch.Generator().manual_seed(seed)
    actions = torch.randint(2, (batch, frames), generator=generator)
    theme = torch.randint(min(THEMES), max(THEMES) + 1, (batch, 1, 1, 1), generator=generator)
    shut = torch.nn.functional.pad(actions[:, :-1], (1, 0), value=OPEN) == SHUT
    tokens = theme.expand(batch, frames, 2, 2).masked_fill(shut[..., None, None], WALL)
    nothing = torch.zeros(batch, frames, 1, 1, 3, dtype=torch.uint8)
    return Clip(nothing, actions, torch.zeros(batch, frames, dtype=torch.bool), tokens)


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    model = Dynamics(DynamicsConfig(**SHAPE, **CLEAN, palette=3.0)).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - step / 200)
        loss, _ = model.loss(levels(16, 8, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def behind_the_wall(model, shown):
    """The frame after a wall that was all the model could see, in 200 dreams."""
    wall = torch.full((200, 1, 2, 2), WALL)
    cache = model.new_cache(200)
    with torch.inference_mode():
        model(wall, torch.full((200, 1), SHUT), cache=cache)
        generator = torch.Generator().manual_seed(0)
        action = torch.full((200,), OPEN)
        return model.generate(cache, action, steps=2, generator=generator, shown=shown)


@pytest.mark.parametrize("theme", THEMES)
def test_behind_a_wall_is_the_theme_that_the_dream_had_before(trained, theme):
    past = torch.tensor([theme, WALL, WALL]).repeat_interleave(4).expand(200, -1)
    without = behind_the_wall(trained, None)
    kept = behind_the_wall(trained, trained.palette.count(past))
    assert 0.3 < (without == theme).float().mean() < 0.7  # nobody can know
    assert (kept == theme).float().mean() > 0.95


def test_dreamed_frames_count_too(trained):
    palette, other = trained.palette, THEMES[1]
    shown = palette.count(torch.full((1, 4), THEMES[0]))
    before = palette.against(shown)[0, other]
    for _ in range(20):
        shown = palette.then(shown, torch.full((1, 2, 2), other))
    assert before < -1 and palette.against(shown)[0, other] == 0


def test_the_shares_are_those_of_training_and_evaluation_leaves_them_alone(trained):
    tokens = torch.cat([levels(16, 8, step).tokens for step in range(200)])
    shares = tokens.flatten().bincount(minlength=4) / tokens.numel()
    before = trained.palette.shares.clone()
    torch.testing.assert_close(before, shares, atol=0.07, rtol=0.2)
    trained.loss(levels(16, 8, 1000))
    assert torch.equal(trained.palette.shares, before)


def test_no_code_is_made_likelier_and_what_nobody_shows_is_no_matter():
    palette = Palette(8, (), 1.0)
    palette.shares.copy_(torch.tensor([0.4, 0.4, 0.1, 0.1, 0, 0, 0, 0]))
    against = palette.against(palette.count(torch.tensor([[0, 0, 0, 2]])))[0]
    assert against[0] == 0 and against[2] == 0  # commoner here than in training
    assert against[1] == against[3] == pytest.approx(torch.tensor(0.3 / 1.3).log())
    assert torch.equal(palette.against(palette.shares[None])[0, :4], torch.zeros(4))


def test_neighbors_in_a_digit_share_what_is_shown():
    counts = torch.zeros(2, 27)
    counts[0, 13] = 64  # digits 1, 1, 1
    counts[1, 0] = 64  # digits 0, 0, 0, at three ends
    near = smoothed(counts, (3, 3, 3))
    torch.testing.assert_close(near.sum(dim=1), torch.tensor([64.0, 64.0]))
    one = near[0].view(3, 3, 3)
    assert one[1, 1, 1] == 8 and one[1, 1, 0] == one[0, 1, 1] == 4 and one[0, 0, 0] == 1
    end = near[1].view(3, 3, 3)
    assert end[0, 0, 0] == 27 and end[0, 0, 1] == end[1, 0, 0] == 9 and end[2].sum() == 0
    assert smoothed(counts, ()) is counts
    uneven = torch.zeros(1, 6)
    uneven[0, 1] = 16  # digits 1 of 2 and 0 of 3: the first digit changes fastest
    expected = torch.tensor([[3.0, 9.0, 1.0, 3.0, 0.0, 0.0]])
    torch.testing.assert_close(smoothed(uneven, (2, 3)), expected)


def test_a_file_keeps_the_shares(trained, tmp_path):
    save_model(trained, "dynamics", tmp_path / "d.safetensors", {}, "float16")
    again = load_model(tmp_path / "d.safetensors")
    shares = again.palette.shares.float()
    torch.testing.assert_close(shares, trained.palette.shares, rtol=1e-3, atol=0)


def test_a_negative_strength_is_refused():
    with pytest.raises(WorkshopError, match=r"model.palette must not be negative, got -1"):
        DynamicsConfig(**SHAPE, palette=-1.0)

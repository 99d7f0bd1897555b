"""Pasts that are made worse on purpose."""

import pytest
import torch

from workshop_lib.models.spoiling import elsewhere, spoil
from workshop_lib.training.live import from_recipe


def test_a_rectangle_of_another_clip_and_other_colors(clip):
    """Each in its share of the clips; the rest stays as it is."""
    torch.manual_seed(0)
    real = clip.video[:1].expand(64, -1, -1, -1, -1)
    # In a gray picture a rectangle of the same gray cannot be seen, a tint can.
    tinted = (spoil(torch.full_like(real, 0.2), 0.5) != 0.2).flatten(1).all(dim=1)
    assert 16 < tinted.sum() < 48
    changed = (spoil(real, 0.5) != real).any(dim=2).float().mean(dim=(1, 2, 3))
    whole, part = changed > 0.5, (changed > 0) & (changed < 0.3)
    assert whole.sum() > 16 and part.sum() > 6 and (changed == 0).sum() > 6


def test_tokens_of_another_level_in_a_rectangle():
    torch.manual_seed(0)
    tokens = torch.arange(64)[:, None, None, None, None].expand(-1, 3, 1, 8, 8)
    spoiled = elsewhere(tokens, 0.5)
    other = (spoiled != tokens)[:, 0, 0]
    assert 20 < other.any(dim=(1, 2)).sum() < 44
    for number, changed in enumerate(other):
        rows, columns = changed.any(dim=1), changed.any(dim=0)
        assert torch.equal(changed, rows[:, None] & columns) and max(rows.sum(), columns.sum()) <= 4
        assert set(spoiled[number].unique().tolist()) <= {number, (number - 1) % 64}
        assert all(torch.equal(frame, spoiled[number, 0]) for frame in spoiled[number])


def test_the_player_fades_by_a_half_or_wholly():
    """A bright player in the middle of a dark level: how much brighter than the level is it yet?"""
    torch.manual_seed(0)
    past = torch.full((200, 2, 3, 64, 64), -0.2)
    past[..., 28:36, 29:35] = 0.4

    def brighter(spoiled):
        of_all = spoiled.flatten(2)
        return (spoiled[..., 28:36, 29:35].mean(dim=(2, 3, 4)) - of_all.median(dim=2).values)[:, 0]

    lost = brighter(spoil(past, 1.0))
    assert (lost < 0.4).float().mean() > 0.97 and lost.std() > 0
    assert 0.35 < (brighter(spoil(past, 0.4)) > 0.39).float().mean() < 0.75, "the others keep it"


def test_without_it_the_past_is_left_alone_and_so_is_chance(clip):
    torch.manual_seed(3)
    assert torch.equal(spoil(clip.video, 0.0), clip.video)
    torch.testing.assert_close(torch.rand(4), torch.rand(4, generator=torch.manual_seed(3)))


@pytest.mark.parametrize(
    ("recipe", "key"),
    [
        ("next_frame/tiny", {"spoiled": 1.0}),
        ("diffusion/unet-tiny", {"mean": {"spoiled": 1.0}}),
        ("diffusion/tiny", {"mean": {}, "spoiled": 1.0}),
    ],
)
def test_a_model_is_trained_on_spoiled_pasts_and_measured_on_real_ones(recipe, key, clip):
    """In training with the same dice another loss; in evaluation the same one."""
    losses = {}
    for spoiled, keys in ((False, {"mean": {}} if "mean" in key else {}), (True, key)):
        torch.manual_seed(0)
        model, _ = from_recipe(recipe, **keys)
        for training in (True, False):
            torch.manual_seed(1)
            losses[spoiled, training] = float(model.train(training).loss(clip)[0].detach())
    assert losses[True, False] == losses[False, False]
    assert losses[True, True] != losses[False, True]

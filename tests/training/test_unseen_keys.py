"""What a model makes of keys that its data never had."""

import json

import pytest
import torch

from tests.conftest import SAMPLE
from workshop_lib.data.actions import LEFT, NOTHING, RIGHT
from workshop_lib.data.clip import Clip
from workshop_lib.training.live import from_recipe, train_live
from workshop_lib.training.unseen_keys import seen_actions, settle_unseen

CONTROL = [1, 2, 4, 5, 7, 8]  # what policy control presses


def tables(model):
    return {name: p for name, p in model.named_parameters() if "actions" in name.split(".")}


@pytest.mark.parametrize(
    ("recipe", "count"),
    [
        ("next_frame/tiny", 4),  # a table for each of four frames
        ("dynamics/tiny", 1),
        ("diffusion/unet-tiny", 8),  # its own and the predictor's
        ("diffusion/tiny", 5),
    ],
)
def test_unseen_keys_become_what_does_the_same(recipe, count):
    torch.manual_seed(0)
    model, _ = from_recipe(recipe)
    before = {name: p.clone() for name, p in model.named_parameters()}
    settle_unseen(model, CONTROL)
    after = tables(model)
    assert len(after) == count
    for name, table in after.items():
        for unseen, same in {0: LEFT, 3: NOTHING, 6: RIGHT, 9: NOTHING, 14: NOTHING}.items():
            assert torch.equal(table[unseen], before[name][same]), (name, unseen)
        for key in [*CONTROL, 15]:  # 15 stands for an unknown key
            assert torch.equal(table[key], before[name][key]), (name, key)
    for name, p in model.named_parameters():
        assert name in after or torch.equal(p, before[name]), f"{name} is no table of keys"


def test_training_in_a_notebook_settles_what_its_batches_lack():
    torch.manual_seed(0)
    frames = torch.randint(0, 256, (2, 6, 64, 64, 3), dtype=torch.uint8)
    keys = torch.tensor(CONTROL).repeat(2, 1)
    model, optim = from_recipe("next_frame/tiny", width=8)
    train_live(model, [Clip(frames, keys, keys < 0)], 2, optim=optim, show=False)
    for name, table in tables(model).items():
        assert torch.equal(table[0], table[LEFT]) and torch.equal(table[14], table[NOTHING]), name
        assert not torch.equal(table[LEFT], table[RIGHT]), name


def test_all_seen_or_nothing_like_it_changes_nothing():
    model, _ = from_recipe("next_frame/tiny")
    before = {name: p.clone() for name, p in tables(model).items()}
    settle_unseen(model, range(15))
    settle_unseen(model, [2, 5, 8])  # of nothing that stands in for another
    assert all(torch.equal(p, before[name]) for name, p in tables(model).items())


def test_latent_codes_are_no_keys():
    """Even if there are as many of them."""
    model, _ = from_recipe("dynamics/tiny", drive="latent")
    before = model.actions.weight.clone()
    settle_unseen(model, CONTROL)
    assert torch.equal(model.actions.weight, before)


def test_seen_actions_are_the_training_sets(tmp_path):
    counts = json.loads((SAMPLE / "easy" / "manifest.json").read_text())
    counts = counts["splits"]["train"]["action_histogram"]
    assert seen_actions(SAMPLE / "easy") == [i for i, n in enumerate(counts) if n]
    assert seen_actions(tmp_path) == list(range(15)), "nothing is known of other folders"

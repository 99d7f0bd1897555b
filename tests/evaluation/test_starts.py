"""Starts: what the real game does from each of them, and their file."""

import numpy as np
import pytest
import torch

from workshop_lib.data.actions import VERTICAL
from workshop_lib.data.game import Game, GameConfig
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.shift import scroll
from workshop_lib.evaluation.starts import KEYS, collect_starts, load_starts, save_starts


def test_starts_are_held_out_moments_at_which_the_keys_matter(starts):
    assert len(starts) == len(set(starts.levels.tolist())) == len(starts.moments) == 24
    assert (starts.levels >= 110_000).all() and (starts.levels < 120_000).all()
    assert (VERTICAL[starts.actions.numpy()] <= 0).all()  # no jump is still in the air
    now = starts.frames[:, -1]
    left, right, jump, nothing = starts.branches.unbind(1)
    apart = scroll(now, left[:, 7])[:, 0] - scroll(now, right[:, 7])[:, 0]
    assert apart.min() >= 10
    assert (jump[:, 3] != nothing[:, 3]).flatten(1).any(1).all()
    # the past is a real past: it moves, by small steps
    steps = scroll(starts.frames[:, 0], starts.frames[:, 1])
    assert 0 < steps.abs().max() < 12


def test_branches_are_what_the_game_does_from_the_saved_moment(starts):
    with Game(GameConfig(), count=24, seed=77) as game:
        for k, key in enumerate(KEYS):
            game.restore(starts.moments)
            assert np.array_equal(game.observe().frames, starts.frames[:, -1].numpy())
            for t in range(12):
                game.act(np.full(24, key))
                observation = game.observe()
                assert np.array_equal(observation.frames, starts.branches[:, k, t].numpy())
                assert not observation.first.any()


def test_equal_seeds_give_equal_starts(starts):
    again = collect_starts(3, "easy", seed=3)
    assert torch.equal(again.frames, starts.frames[:3])
    assert torch.equal(again.branches, starts.branches[:3])


@pytest.mark.parametrize("small", [False, True])
def test_a_file_holds_all_but_the_moments(starts, tmp_path, small):
    part = starts[:4].thinned(prompt=4, horizons=(4, 8))
    save_starts(tmp_path / "a.npz", part, small=small)
    read = load_starts(tmp_path / "a.npz")
    for name in ("frames", "actions", "branches", "levels"):
        assert torch.equal(getattr(read, name), getattr(part, name))
    assert (read.horizons, read.look, read.moments) == ((4, 8), "easy", ())
    assert torch.equal(read.frames, starts.frames[:4, 4:])
    assert torch.equal(read.actions, starts.actions[:4, 4:])
    assert torch.equal(read.branches[:, :, 1], starts.branches[:4, :, 7])


def test_small_files_are_small(starts, tmp_path):
    for small in (False, True):
        save_starts(tmp_path / f"{small}.npz", starts[:8], small=small)
    sizes = [(tmp_path / f"{small}.npz").stat().st_size for small in (True, False)]
    assert sizes[0] < 0.6 * sizes[1]


def test_wrong_files_are_refused(starts, tmp_path):
    with pytest.raises(WorkshopError, match="no such file"):
        load_starts(tmp_path / "missing.npz")
    np.savez(tmp_path / "other.npz", frames=np.zeros(3))
    with pytest.raises(WorkshopError, match=r"other\.npz: not a file of starts"):
        load_starts(tmp_path / "other.npz")


@pytest.mark.parametrize("small", [False, True])
def test_damaged_files_are_never_read_as_something_else(starts, tmp_path, small):
    path = tmp_path / "torn.npz"
    save_starts(path, starts[:2].thinned(2, (4,)), small=small)
    whole, refused = path.read_bytes(), 0
    flipped = [bytearray(whole) for _ in range(20)]
    for n, damaged in enumerate(flipped):
        damaged[len(whole) * n // 20] ^= 0x55
    for damaged in [whole[:100], whole[: len(whole) // 2], *flipped]:
        path.write_bytes(damaged)
        try:  # some bytes, such as a date, do not matter
            assert torch.equal(load_starts(path).branches, starts.branches[:2, :, 3:4])
        except WorkshopError as error:
            assert "torn.npz: not a file of starts" in str(error)
            refused += 1
    assert refused > 15


def test_too_few_levels_are_said(procgen):
    with pytest.raises(WorkshopError, match="of 5: ask for fewer"):
        collect_starts(5, "easy", levels=(0, 2))

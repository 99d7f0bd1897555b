"""What is pressed: action names, and the mix of actions that each policy leaves in the data."""

import numpy as np
import pytest

from workshop_lib.data.actions import (
    ACTIONS,
    HORIZONTAL,
    VERTICAL,
    combine,
    merge_actions,
    parse_actions,
)
from workshop_lib.data.policies import POLICIES, make_policy
from workshop_lib.errors import WorkshopError


def test_directions_and_indices_agree():
    for action in ACTIONS[:9]:
        assert combine(HORIZONTAL[action.index], VERTICAL[action.index]) == action.index
        assert ("left" in action.keys) == (HORIZONTAL[action.index] == -1)
        assert ("up" in action.keys) == (VERTICAL[action.index] == 1)


def test_patterns_for_people():
    assert parse_actions("7,7,8x5").tolist() == [7, 7, 8, 8, 8, 8, 8]
    assert parse_actions("right, right-jump x2,nothing").tolist() == [7, 8, 8, 4]
    for wrong in ("15", "fly", "7,,7", "x5"):
        with pytest.raises(WorkshopError, match="unknown action"):
            parse_actions(wrong)


def play(name, frames=4000, games=32, seed=0):
    """Actions (frames, games), resets, and firsts at random, as if episodes took 90 frames."""
    policy, rng = make_policy(name, games, seed), np.random.default_rng(1)
    first = np.ones(games, dtype=bool)
    actions, resets = [], []
    for _ in range(frames):
        chosen, reset = policy.choose(first)
        actions.append(chosen.copy())
        resets.append(reset.copy())
        first = reset | (rng.random(games) < 1 / 90)
    return np.array(actions), np.array(resets)


def entropy(actions):
    p = np.bincount(merge_actions(actions).ravel(), minlength=6) / actions.size
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


def run_lengths(column):
    ends = np.flatnonzero(np.diff(column)) + 1
    return np.diff(np.concatenate([[0], ends, [len(column)]]))


@pytest.mark.parametrize("name", POLICIES)
def test_equal_seeds_play_equally(name):
    np.testing.assert_array_equal(play(name, 200)[0], play(name, 200)[0])
    assert (play(name, 200, seed=0)[0] != play(name, 200, seed=1)[0]).any()


def test_random_presses_every_key_and_sticky_holds():
    random, _ = play("random")
    shares = np.bincount(random.ravel(), minlength=15) / random.size
    assert shares.min() > 0.9 / 15 and shares.max() < 1.1 / 15
    sticky, _ = play("sticky")
    assert sticky.max() == 8
    assert np.mean(run_lengths(sticky[:, 0])) > 3.5 * np.mean(run_lengths(random[:, 0]))


def test_runner_runs_and_mixed_keeps_its_variety():
    share_right = {n: (HORIZONTAL[play(n)[0]] == 1).mean() for n in ("random", "runner", "mixed")}
    assert share_right["random"] < 0.25 and share_right["runner"] > 0.8
    assert 0.6 < share_right["mixed"] < 0.75
    assert entropy(play("mixed")[0]) > 1.4 > entropy(play("runner")[0])


def test_control_practices_left_and_right_and_uses_six_actions():
    actions, resets = play("control")
    assert set(np.unique(actions)) == {1, 2, 4, 5, 7, 8}
    assert 0.002 < resets.mean() < 0.005
    # right after a level's start it travels right; over all, left is well practiced too
    policy = make_policy("control", 2000, 0)
    start = policy.choose(np.ones(2000, dtype=bool))[0]
    assert (HORIZONTAL[start] == 1).mean() > 0.75
    assert (HORIZONTAL[actions] == -1).mean() > 0.2


def test_a_policy_that_needs_procgens_keys_says_so():
    make_policy("random", 2, 0, num_actions=4)
    with pytest.raises(WorkshopError, match="random or sticky"):
        make_policy("control", 2, 0, num_actions=4)
    with pytest.raises(WorkshopError, match="unknown policy"):
        make_policy("clever", 2, 0)

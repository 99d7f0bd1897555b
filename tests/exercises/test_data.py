"""Notebook 01's exercises: each planted mistake is recognized for what it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.exercises.planting import (
    Mistake,
    assert_recognized,
    assert_solution_is_right,
    planter,
)
from workshop_lib import exercises as ex
from workshop_lib.data.policies import make_policy

MISTAKES: list[Mistake] = []
mistake = planter(MISTAKES)


@mistake("align", "(10, 8, 20) has the action of one frame too late")
def action_that_led_to_the_frame(frames, actions):
    return [(frames[t], actions[t + 1], frames[t + 1]) for t in range(len(frames) - 1)]


@mistake("align", "(20, 7, 30) has the action of one frame too early")
def action_before(frames, actions):
    return [(frames[t], actions[t - 1], frames[t + 1]) for t in range(1, len(frames) - 1)]


@mistake("align", "In (20, 7, 10) the second frame is not the one that came right after")
def frames_swapped(frames, actions):
    return [(frames[t + 1], actions[t], frames[t]) for t in range(len(frames) - 1)]


@mistake("align", "In (10, 7, 10) the second frame is not the one")
def same_frame_twice(frames, actions):
    return [(frames[t], actions[t], frames[t]) for t in range(len(frames))]


@mistake("align", "(10, 20, 7) is not of the form (frame before, action, frame after)")
def wrong_order(frames, actions):
    return [(frames[t], frames[t + 1], actions[t]) for t in range(len(frames) - 1)]


@mistake("align", "(10, 7) is not of the form")
def pairs(frames, actions):
    return list(zip(frames, actions, strict=True))


@mistake("align", "IndexError")
def one_too_many(frames, actions):
    return [(frames[t], actions[t], frames[t + 1]) for t in range(len(frames))]


@mistake("align", "5 frames have 4 transitions between them, in order of time; you have 3")
def one_too_few(frames, actions):
    return [(frames[t], actions[t], frames[t + 1]) for t in range(len(frames) - 2)]


@mistake("align", "you have 4")
def backward(frames, actions):
    return [(frames[t], actions[t], frames[t + 1]) for t in range(len(frames) - 1)][::-1]


@mistake("align", "a triple of lists; what is wanted is a list of triples")
def triple_of_arrays(frames, actions):
    return frames[:-1], actions[:-1], frames[1:]


@mistake("align", "not for real frames")
def only_numbers(frames, actions):
    flat = frames.reshape(-1)
    return [(flat[t], actions[t], flat[t + 1]) for t in range(len(frames) - 1)]


@mistake("clip_starts", "The last clip of each episode is missing")
def last_start_missing(lengths, T):
    return [(e, s) for e, n in enumerate(lengths) for s in range(n - T)]


@mistake("clip_starts", "begins at frame 3 of episode 0 needs frames up to 5, but the episode ends")
def across_the_end(lengths, T):
    return [(e, s) for e, n in enumerate(lengths) for s in range(n)]


@mistake("clip_starts", "(0, 1) is missing. Clips may overlap")
def side_by_side(lengths, T):
    return [(e, s) for e, n in enumerate(lengths) for s in range(0, n - T + 1, T)]


@mistake("clip_starts", "Some place is there twice")
def twice(lengths, T):
    return [(e, s) for e, n in enumerate(lengths) for s in range(n - T + 1) for _ in range(2)]


@mistake("clip_starts", "begins at frame 0 of episode 1 needs frames up to 2, but the episode ends")
def episodes_from_one(lengths, T):
    return [(e + 1, s) for e, n in enumerate(lengths) for s in range(n - T + 1)]


@mistake("clip_starts", "There is no frame -1 of episode 1")
def negative(lengths, T):
    return [(e, s) for e, n in enumerate(lengths) for s in range(min(0, n - T), n - T + 1)]


@mistake("clip_starts", "right for the example above, but not for this one")
def remembered(lengths, T):
    return [(0, 0), (0, 1), (0, 2), (2, 0)]


@mistake("split_levels", "leaks: its episodes are in ")
def by_episode(levels, val, test):
    names = np.random.default_rng(0).choice(
        ["train", "val", "test"], len(levels), p=[1 - val - test, val, test]
    )
    return names.tolist()


@mistake("split_levels", "leaks: its episodes are in ")
def cut_in_order_of_play(levels, val, test):
    count = len(levels)
    return ["val"] * round(val * count) + ["train"] * (count - round(val * count))


@mistake("split_levels", "val has the wrong share")
def shares_swapped(levels, val, test):
    return ex.split_levels.reference(levels, test, val)


@mistake("split_levels", "val has the wrong share")
def all_train(levels, val, test):
    return ["train"] * len(levels)


@mistake("split_levels", "test has the wrong share")
def no_test(levels, val, test):
    return ex.split_levels.reference(levels, val, 0)


@mistake("split_levels", "one name for each episode: 60, not 20")
def one_name_per_level(levels, val, test):
    return ["train"] * len(set(levels))


@mistake("split_levels", '"validation" is not "train", "val" or "test"')
def other_names(levels, val, test):
    return ["validation" for _ in levels]


@mistake("policy", "hardly ever presses left")
def always_right(last, rng):
    return np.full(last.shape, 8)


@mistake("policy", "It does not get far")
def uniform(last, rng):
    return rng.integers(0, 15, last.shape)


@mistake("policy", "It does not get far")
def sticky_without_direction(last, rng):
    return np.where(rng.random(last.shape) < 0.8, last, rng.integers(0, 9, last.shape))


@mistake("policy", "hardly ever presses jump")
def no_jump_alone(last, rng):
    new = rng.choice([1, 2, 4, 7, 8], size=last.shape, p=[0.1, 0.1, 0.1, 0.35, 0.35])
    return np.where(rng.random(last.shape) < 0.8, last, new)


@mistake("policy", "All games press the same key at the same time")
def one_draw_for_all(last, rng):
    return np.full(last.shape, rng.choice([1, 2, 4, 5, 7, 8]))


@mistake("policy", "one whole number for each game")
def single_number(last, rng):
    return 7


@mistake("policy", "one whole number for each game")
def floats(last, rng):
    return last * 1.0


@mistake("policy", "Actions run from 0 to 14")
def out_of_range(last, rng):
    return rng.integers(0, 16, last.shape)


@pytest.mark.parametrize("planted", MISTAKES, ids=lambda planted: planted[2].__name__)
def test_planted_mistake(planted: Mistake, capsys: Any) -> None:
    assert_recognized(planted, capsys)


@pytest.mark.parametrize("name", ["align", "clip_starts", "policy", "split_levels"])
def test_solution_is_right(name: str, capsys: Any) -> None:
    assert_solution_is_right(name, MISTAKES, capsys)


def align_with_zip(frames, actions):
    return list(zip(frames[:-1], actions[:-1], frames[1:], strict=True))


def align_as_generator(frames, actions):
    return ((frames[t], actions[t], frames[t + 1]) for t in range(len(frames) - 1))


def clip_starts_by_start(lengths, T):
    return [[e, s] for s in range(max(lengths)) for e in range(len(lengths)) if s + T <= lengths[e]]


def clip_starts_as_array(lengths, T):
    return np.array(ex.clip_starts.reference(lengths, T))


def split_by_random_levels(levels, val, test):
    unique = np.random.default_rng(1).permutation(np.unique(levels))
    v, t = round(val * len(unique)), round(test * len(unique))
    set_of = {k: "val" if i < v else "test" if i < v + t else "train" for i, k in enumerate(unique)}
    return np.array([set_of[level] for level in levels])


def policy_like_mixed(last, rng):
    new = np.where(
        rng.random(last.shape) < 0.6, rng.choice([7, 8], last.shape), rng.choice(9, last.shape)
    )
    return np.where(rng.random(last.shape) < 0.75, last, new)


@pytest.mark.parametrize(
    ("name", "attempt"),
    [
        ("align", align_with_zip),
        ("align", align_as_generator),
        ("clip_starts", clip_starts_by_start),
        ("clip_starts", clip_starts_as_array),
        ("split_levels", split_by_random_levels),
        ("policy", policy_like_mixed),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_other_right_ways_are_right(name: str, attempt: Any, capsys: Any) -> None:
    assert getattr(ex, name).check(attempt) is attempt, capsys.readouterr().out


@pytest.mark.parametrize(
    ("policy", "right"), [("random", False), ("sticky", False), ("mixed", True)]
)
def test_the_stairs_judge_as_the_game_does(policy: str, right: bool) -> None:
    """The stand-in ranks the library's players as coverage of the real game does."""
    players = make_policy(policy, 64, 0)
    began = np.ones(64, dtype=bool)

    def attempt(last, rng):
        actions = players.choose(began)[0].copy()
        began[:] = False
        return actions

    assert (ex.policy.check(attempt) is attempt) == right


def test_the_solution_covers_more_of_the_real_game_than_random(procgen: None) -> None:
    from workshop_lib.data.game import Game, GameConfig

    def coins(press: Any) -> int:
        rng, last, won = np.random.default_rng(0), np.full(32, 4), 0
        with Game(GameConfig(look="mono", levels=(0, 50)), 32) as game:
            for _ in range(300):
                last = press(last, rng)
                game.act(last)
                won += int((game.observe().reward > 0).sum())
        return won

    assert coins(ex.policy.reference) > 3 * coins(uniform)

"""What the Procgen inside envpool shares with the procgen package, and what it does not."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from workshop_lib.data.envpool_game import INSTALL, EnvpoolSimulator
from workshop_lib.data.game import Game, GameConfig
from workshop_lib.errors import WorkshopError

HAS_ENVPOOL, HAS_PROCGEN = (find_spec(name) is not None for name in ("envpool", "procgen"))
needs_envpool = pytest.mark.skipif(
    not HAS_ENVPOOL,
    reason=f"envpool is not installed: {INSTALL} and apt-get install libqt5gui5",
)
needs_both = pytest.mark.skipif(
    not (HAS_ENVPOOL and HAS_PROCGEN),
    reason=f"a comparison needs procgen and envpool: {INSTALL} and apt-get install libqt5gui5",
)

# Mean difference of a run's pixels, of 255. Seen: 0 (mono) to .014 (hard) up to envpool 1.2.5,
# and 2 to 3 from 1.2.6 on, which draws with another Qt: these tests are for the former.
PIXEL_TOLERANCE = 0.05
FORWARD = np.array([7, 8, 8, 6, 4, 1, 2])  # mostly right and jump, so that episodes end


def play(backend: str, config: GameConfig, steps: int, **options) -> dict[str, np.ndarray]:
    """Everything that a seeded run shows, stacked over time: (T, N, ...)."""
    count = options.setdefault("count", 1)
    rng = np.random.default_rng(0)
    rows = []
    with Game(config, backend=backend, **options) as game:
        for _ in range(steps):
            rows.append((*game.observe(), game.level_seeds()))
            game.act(rng.choice(FORWARD, count), reset=rng.random(count) < 0.004)
    names = ("frames", "first", "reward", "levels")
    return {name: np.stack(row) for name, row in zip(names, zip(*rows, strict=True), strict=True)}


def frame_difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Mean absolute difference of frames (T, N, H, W, C), of 255: (T, N)."""
    return np.abs(one.astype(np.int16) - other).mean((-3, -2, -1))


@needs_both
@pytest.mark.parametrize("look", ["mono", "easy", "hard"])
@pytest.mark.parametrize("level", [7, 11, 400])
def test_one_level_plays_the_same_in_both(look, level):
    config = GameConfig("coinrun", look, (level, level + 1))
    ours = play("envpool", config, 500, seed=1)
    procgen = play("procgen", config, 500, seed=2)  # one level: the seed has nothing to choose

    assert procgen["first"].sum() >= 3
    np.testing.assert_array_equal(ours["first"], procgen["first"])
    np.testing.assert_array_equal(ours["reward"], procgen["reward"])
    assert (ours["levels"] == level).all() and (procgen["levels"] == level).all()

    difference = frame_difference(ours["frames"], procgen["frames"])
    assert difference.mean() < PIXEL_TOLERANCE
    assert difference.max() < 10 * PIXEL_TOLERANCE
    # The tolerance is worth something: a frame too early or too late would be far outside.
    shifted = frame_difference(ours["frames"][1:], procgen["frames"][:-1])
    assert shifted.mean() > 50 * PIXEL_TOLERANCE


@needs_both
@pytest.mark.parametrize("name", ["coinrun", "maze", "jumper"])
def test_one_seed_gives_the_same_games_in_both(name):
    config = GameConfig(name, "easy", (1000, 3000))
    ours = play("envpool", config, 300, count=5, seed=42)
    procgen = play("procgen", config, 300, count=5, seed=42)
    for key in ("first", "reward", "levels"):
        np.testing.assert_array_equal(ours[key], procgen[key], err_msg=key)
    assert len(np.unique(ours["levels"])) >= 10
    assert frame_difference(ours["frames"], procgen["frames"]).mean() < PIXEL_TOLERANCE


@needs_both
def test_both_give_up_on_a_level_at_the_same_step():
    ends = []
    for backend in ("envpool", "procgen"):
        with Game(GameConfig("coinrun", "easy", (5, 6)), backend=backend) as game:
            for step in range(1, 1100):
                game.act(np.array([4]))
                if game.observe().first[0]:
                    ends.append(step)
                    break
    assert len(ends) == 2 and ends[0] == ends[1] > 500


@needs_envpool
def test_the_frame_of_an_ending_already_shows_the_next_level():
    config = GameConfig("coinrun", "easy", (0, 2000))
    with Game(config, count=8, seed=3, backend="envpool") as game:
        rng = np.random.default_rng(0)
        coins = ends = 0
        previous = game.level_seeds()
        for _ in range(300):
            game.act(rng.choice(FORWARD, 8))
            shown, levels = game.observe(), game.level_seeds()
            np.testing.assert_array_equal(shown.first, levels != previous)
            assert (shown.reward[~shown.first] == 0).all()
            coins += (shown.reward == 10).sum()
            ends += shown.first.sum()
            for i in np.flatnonzero(shown.first):
                single = GameConfig("coinrun", "easy", (int(levels[i]), int(levels[i]) + 1))
                with Game(single, backend="envpool") as fresh:
                    np.testing.assert_array_equal(fresh.observe().frames[0], shown.frames[i])
            previous = levels
        assert coins >= 3 and ends > coins


@needs_envpool
def test_a_reset_touches_only_the_games_that_were_asked():
    config = GameConfig("coinrun", "easy", (0, 2000))
    with Game(config, count=4, seed=5, backend="envpool") as game:
        before = game.level_seeds()
        game.act(np.full(4, 4), reset=np.array([False, True, False, True]))
        assert game.observe().first.tolist() == [False, True, False, True]
        assert (game.level_seeds() != before).tolist() == [False, True, False, True]
        game.act(np.full(4, 4))
        assert not game.observe().first.any()


@needs_envpool
def test_a_seed_repeats_exactly_whatever_the_threads():
    config = GameConfig("coinrun", "hard", (0, 2000))
    runs = [play("envpool", config, 150, count=6, seed=9, threads=n) for n in (1, 3)]
    for key in runs[0]:
        np.testing.assert_array_equal(runs[0][key], runs[1][key], err_msg=key)
    other = play("envpool", config, 2, count=6, seed=10)
    assert (other["levels"][0] != runs[0]["levels"][0]).any()


@needs_envpool
def test_frames_handed_out_are_not_changed_by_later_steps():
    config = GameConfig("coinrun", "easy", (0, 2000))
    with Game(config, count=3, seed=0, backend="envpool") as game:
        shown = game.observe()
        kept = [np.copy(value) for value in shown]
        for step in range(30):
            game.act(np.full(3, 7), reset=np.array([step % 5 == 0, False, False]))
        for value, copy in zip(shown, kept, strict=True):
            np.testing.assert_array_equal(value, copy)


@needs_envpool
def test_moments_are_neither_saved_nor_restored():
    with Game(GameConfig(), backend="envpool") as game:
        assert not game.can_save
        for source in (game, game.simulator):
            with pytest.raises(WorkshopError, match="cannot save"):
                source.save()
            with pytest.raises(WorkshopError, match="cannot restore"):
                source.restore([b""])


def test_a_machine_without_envpool_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(WorkshopError, match=re.escape(INSTALL)) as caught:
        EnvpoolSimulator(GameConfig(), count=1, seed=0, threads=1)
    assert "\n" not in str(caught.value)

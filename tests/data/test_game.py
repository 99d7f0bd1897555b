"""The real game: levels, looks, saving and restoring, and the bad calls that would end it."""

import os
import subprocess
import sys

import numpy as np
import pytest

from workshop_lib.data.actions import LEFT, NOTHING, RIGHT
from workshop_lib.data.game import Game, GameConfig, level_moment
from workshop_lib.errors import WorkshopError

pytestmark = pytest.mark.usefixtures("procgen")


def roll(game, actions):
    frames = []
    for row in actions:
        game.act(row)
        frames.append(game.observe().frames.copy())
    return np.array(frames)


def test_equal_seeds_play_equally_whatever_the_threads():
    actions = np.random.default_rng(0).integers(0, 15, (60, 8))
    runs = []
    for threads in (1, 2, 4):
        with Game(GameConfig(look="hard"), count=8, seed=3, threads=threads) as game:
            runs.append(roll(game, actions))
    assert (runs[0] == runs[1]).all() and (runs[0] == runs[2]).all()


def test_levels_stay_in_their_range():
    with Game(GameConfig(levels=(500, 520)), count=16, seed=0) as game:
        seen, rng = set(), np.random.default_rng(0)
        for _ in range(300):
            game.act(np.full(16, RIGHT), reset=rng.random(16) < 0.1)
            seen |= set(game.level_seeds().tolist())
    assert seen == set(range(500, 520))


def test_saved_moments_branch_and_agree_with_the_future():
    actions = np.random.default_rng(0).integers(0, 15, (20, 4))
    with Game(GameConfig(), count=4) as game:
        roll(game, np.full((20, 4), RIGHT))
        moment = game.save()
        future = roll(game, actions)
        game.restore(moment)
        assert (roll(game, actions) == future).all()
        # one moment in four games, four futures
        game.restore([moment[0]] * 4)
        frames = roll(game, np.tile([LEFT, RIGHT, NOTHING, NOTHING], (12, 1)))[-1].astype(int)
    assert (frames[2] == frames[3]).all()
    assert np.abs(frames[0] - frames[1]).mean() > 5


def test_moments_hold_in_another_process(tmp_path):
    with Game(GameConfig(look="hard"), count=1) as game:
        roll(game, np.full((10, 1), RIGHT))
        (tmp_path / "moment").write_bytes(game.save()[0])
        expected = roll(game, np.full((10, 1), RIGHT))
    code = (
        "import sys, numpy as np; from workshop_lib.data.game import *\n"
        "game = Game(GameConfig(look='hard'), count=1, seed=9)\n"
        "game.restore([open(sys.argv[1] + '/moment', 'rb').read()])\n"
        "frames = []\n"
        "for _ in range(10):\n"
        "    game.act(np.array([7])); frames.append(game.observe().frames.copy())\n"
        "np.save(sys.argv[1] + '/frames.npy', np.array(frames))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert (np.load(tmp_path / "frames.npy") == expected).all()


def test_a_level_can_be_started_by_its_number():
    config = GameConfig(levels=(0, 10))
    with Game(config, count=2) as game:
        game.restore([level_moment(config, 1234), level_moment(config, 77)])
        assert game.level_seeds().tolist() == [1234, 77]
        first = game.observe().frames.copy()
        game.act(np.array([NOTHING, NOTHING]), reset=np.array([True, True]))
        assert game.level_seeds().tolist() == [1234, 77]  # it keeps to that level
        assert (game.observe().frames == first).all()


def test_looks_grow_richer():
    colors = {}
    for look in ("mono", "easy", "hard"):
        with Game(GameConfig(look=look), count=32) as game:
            frames = game.observe().frames.reshape(-1, 3)
            colors[look] = len(np.unique(frames, axis=0))
    assert colors["mono"] * 2 < colors["easy"] < colors["hard"] / 2


def test_another_procgen_game_plays():
    with Game(GameConfig(name="starpilot"), count=4) as game:
        before = game.observe().frames.copy()
        after = roll(game, np.full((5, 4), RIGHT))[-1]
    assert (before != after).any(axis=(1, 2, 3)).all()


@pytest.mark.parametrize(
    ("actions", "complaint"),
    [
        (np.array([15, 0]), "0 to 14"),
        (np.array([-1, 0]), "0 to 14"),
        (np.array([1]), "shape"),
        (np.array([1.0, 2.0]), "integers"),
    ],
)
def test_bad_actions_are_refused(actions, complaint):
    with Game(GameConfig(), count=2) as game, pytest.raises(WorkshopError, match=complaint):
        game.act(actions)


def test_bad_moments_and_settings_are_refused():
    with Game(GameConfig(), count=2) as game:
        moment = game.save()
        with pytest.raises(WorkshopError, match="2 saved moments"):
            game.restore(moment[:1])
        with pytest.raises(WorkshopError, match="bytes that"):
            game.restore([b"nonsense", moment[1]])
        with pytest.raises(WorkshopError, match="bytes that"):
            game.restore([moment[0][:2000], moment[1]])
    for wrong in (
        {"name": "tetris"},
        {"look": "ugly"},
        {"levels": (5, 5)},
        {"levels": (-1, 5)},
        {"levels": (0, 2**31)},
    ):
        with pytest.raises(WorkshopError):
            GameConfig(**wrong)
    with pytest.raises(WorkshopError, match="count"):
        Game(GameConfig(), count=0)


def test_importing_the_game_prints_nothing():
    code = (
        "import numpy as np; from workshop_lib.data.game import *\n"
        "game = Game(GameConfig()); game.act(np.array([7])); game.observe()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "" and run.stderr == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_is_told_rather_than_left_hanging():
    code = (
        "import os, numpy as np; from workshop_lib.data.game import *\n"
        "game = Game(GameConfig()); game.observe()\n"
        "if os.fork() == 0:\n"
        "    try: game.act(np.array([7]))\n"
        "    except WorkshopError as error: os._exit(3 if 'forked' in str(error) else 1)\n"
        "    os._exit(1)\n"
        "status = os.wait()[1]; os._exit(os.waitstatus_to_exitcode(status))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 3

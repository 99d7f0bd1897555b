"""Recording: what is on disk is what was played, and an interrupted run goes on."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from workshop_lib.data.actions import RIGHT
from workshop_lib.data.game import Game, GameConfig, level_moment
from workshop_lib.data.policies import make_policy
from workshop_lib.data.sampling import SamplingConfig, record_episodes, record_shard, sample
from workshop_lib.data.shards import find_shards, open_shard, read_all, read_index
from workshop_lib.errors import WorkshopError

pytestmark = pytest.mark.usefixtures("procgen")


def replay(episode, look="easy"):
    """The frames that the real game shows when the recorded actions are pressed again."""
    config = GameConfig(look=look)
    with Game(config, count=1) as game:
        game.restore([level_moment(config, episode.level_seed)])
        frames = [game.observe().frames[0].copy()]
        for action in episode.actions[:-1]:
            game.act(np.array([action]))
            frames.append(game.observe().frames[0].copy())
    return np.array(frames)


def test_recorded_actions_lead_from_each_frame_to_the_next(recording):
    """The convention of the whole kit: actions[t] was pressed after frame t, and led to t + 1."""
    shard = open_shard(find_shards(recording)[0])
    whole = [episode for episode in read_all(shard) if episode.first[0]][:5]
    assert len(whole) == 5
    for episode in whole:
        np.testing.assert_array_equal(replay(episode), episode.frames)


def test_episodes_never_span_a_reset(recording):
    index = [read_index(path) for path in find_shards(recording)]
    assert sum(i.frames for i in index) >= 12_000
    starts = 0
    for path in find_shards(recording):
        for episode in read_all(open_shard(path)):
            assert not episode.first[1:].any()
            assert 2 <= len(episode) <= 160
            assert 0 <= episode.level_seed < 300
            starts += episode.first[0]
    assert starts == sum(i.episode_starts for i in index) > 50


def test_long_stretches_go_on_in_the_next_record():
    with Game(GameConfig(), count=2) as game:
        policy = make_policy("random", 2, 0)
        episodes = list(record_episodes(game, policy, frames=600, max_frames=40))
    later = [k for k, e in enumerate(episodes) if not e.first[0]]
    assert later and max(len(e) for e in episodes) == 40
    # a stretch that goes on was cut at 40 frames, in the same level
    for k in later:
        before = [e for e in episodes[:k] if e.level_seed == episodes[k].level_seed]
        assert len(before[-1]) == 40


def test_rewards_belong_to_the_episode_that_earned_them():
    """Running right through one easy level ends at its coin: 10 on the last action."""
    with Game(GameConfig(levels=(0, 200)), count=16, seed=1) as game:
        policy = make_policy("runner", 16, 0)
        episodes = list(record_episodes(game, policy, frames=8000, max_frames=1000))
    rewarded = [e for e in episodes if e.reward.any()]
    assert len(rewarded) > 10
    for episode in rewarded:
        assert episode.reward[-1] == 10 and not episode.reward[:-1].any()


def test_a_shard_is_a_pure_function_of_settings_and_number(tmp_path):
    config = SamplingConfig(frames=3000, frames_per_shard=1500, games=4, policy="control", seed=5)
    for name in ("a", "b"):
        record_shard(tmp_path / f"{name}.array_record", config, 1)
    record_shard(tmp_path / "c.array_record", config, 0)
    a, b, c = (list(read_all(open_shard(tmp_path / f"{n}.array_record"))) for n in "abc")
    assert len(a) == len(b)
    assert all((x.frames == y.frames).all() for x, y in zip(a, b, strict=True))
    assert {e.level_seed for e in a}.isdisjoint({e.level_seed for e in c})


def test_shards_of_a_cluster_make_up_the_whole(tmp_path):
    options = dict(frames=4000, frames_per_shard=1000, games=2, progress=False)
    whole = sample(str(tmp_path / "whole"), **options)
    for i in range(3):
        sample(str(tmp_path / "parts"), shard=f"{i}/3", **options)
    parts = find_shards(tmp_path / "parts")
    assert [p.name for p in parts] == [w.name for w in whole] and len(parts) == 4
    for part, one in zip(parts, whole, strict=True):
        assert read_index(part) == read_index(one)


def test_killed_and_started_again_it_finishes(tmp_path):
    command = [sys.executable, "-m", "workshop_lib.cli", "sample", str(tmp_path)]
    command += ["--frames", "60000", "--frames_per_shard", "5000", "--no-progress"]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*.array_record")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in find_shards(tmp_path)}
    assert 0 < len(done) < 12
    subprocess.run(command, check=True)
    assert sum(read_index(path).frames for path in find_shards(tmp_path)) >= 60_000
    assert all(path.stat().st_mtime_ns == then for path, then in done.items())  # kept as they were


def test_other_settings_do_not_mix(tmp_path):
    sample(str(tmp_path), frames=1000, progress=False)
    assert json.loads((tmp_path / "sampling.json").read_text())["settings"]["look"] == "easy"
    with pytest.raises(WorkshopError, match="look=easy, not hard"):
        sample(str(tmp_path), frames=1000, look="hard", progress=False)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"levels": "0-5"}, "START:STOP"),
        ({"levels": "9:5"}, "start < stop"),
        ({"shard": "3/3"}, "I/N"),
        ({"shard": "x"}, "I/N"),
        ({"frames": 0}, "--frames"),
        ({"max_frames": 1}, "--max_frames"),
        ({"env": "tetris"}, "unknown game"),
        ({"policy": "clever"}, "unknown policy"),
    ],
)
def test_bad_settings_are_named(tmp_path, options, complaint):
    with pytest.raises(WorkshopError, match=complaint):
        sample(str(tmp_path / "out"), progress=False, **{"frames": 1000, **options})


def test_the_same_sampler_takes_a_gymnasium_environment(tmp_path):
    paths = sample(
        str(tmp_path),
        env="gymnasium:CartPole-v1",
        policy="random",
        frames=300,
        games=3,
        progress=False,
    )
    episodes = list(read_all(open_shard(paths[0])))
    assert sum(len(e) for e in episodes) >= 300
    assert episodes[0].frames.shape[1:] == (64, 64, 3)
    assert {int(a) for e in episodes for a in e.actions} == {0, 1}
    assert all(e.reward.min() == 1 for e in episodes)  # CartPole pays 1 a step
    assert RIGHT not in episodes[0].actions


def test_what_ended_a_level_is_recorded_and_what_only_cut_it_is_not():
    """Where an episode says that it was over, the real game goes on to another level after the last
    action; where it does not, in the same: control gives levels up, and the recording ends."""
    with Game(GameConfig(levels=(0, 200)), count=16, seed=1) as game:
        policy = make_policy("control", 16, 0)
        episodes = list(record_episodes(game, policy, frames=8000, max_frames=100))
    whole = [e for e in episodes if e.first[0]]
    ended = [e for e in whole if e.over[-1]]
    cut = [e for e in whole if not e.over[-1] and len(e) < 100]
    assert len(ended) > 20 and len(cut) > 10
    assert not any(e.over[:-1].any() for e in episodes)
    assert any(e.reward[-1] for e in ended) and not all(e.reward[-1] for e in ended)
    for episode in [*ended[:10], *cut[:10]]:
        with Game(GameConfig(), count=1) as game:
            game.restore([level_moment(GameConfig(), episode.level_seed)])
            for action in episode.actions:
                game.act(np.array([action]))
            assert game.observe().first[0] == episode.over[-1]

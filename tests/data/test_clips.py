"""Batches of clips: true to the episodes, fair, shuffled, dealt out, and resumable."""

import subprocess
import sys
import textwrap
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from tests.conftest import SAMPLE, numbered_episodes
from tests.data.test_shards import with_tokens, write
from workshop_lib.data.clip import Clip
from workshop_lib.data.clips import (
    UNKNOWN_ACTION,
    ClipBatches,
    ClipConfig,
    fixed_clips,
    make_clip,
    plan_epoch,
)
from workshop_lib.data.datamodule import ClipDataModule, clip_loader
from workshop_lib.data.episodes import Episode, decode_episode, encode_episode
from workshop_lib.data.splits import split_shards
from workshop_lib.data.writer import ShardWriter
from workshop_lib.errors import WorkshopError

LENGTHS = np.random.default_rng(0).integers(2, 120, 40).tolist()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Three shards of forty made-up episodes whose frames say where they come from."""
    folder = tmp_path_factory.mktemp("shards")
    episodes = numbered_episodes(LENGTHS)
    paths = [folder / f"{k}.array_record" for k in range(3)]
    for k, path in enumerate(paths):
        with ShardWriter(path) as writer:
            for episode in episodes[k::3]:
                writer.write(episode)
    return paths


def config(**changes):
    return ClipConfig(**{"length": 16, "batch_size": 8, "lanes": 4, "window": 8, **changes})


def origins(clip):
    """(episode, start) of every clip of a batch."""
    pixel = clip.frames[:, 0, 0, 0].int()
    return [(int(e), int(high) * 256 + int(low)) for e, high, low in pixel]


def take(batches, count):
    return [origin for clip in islice(iter(batches), count) for origin in origins(clip)]


def test_a_clip_is_a_stretch_of_one_episode(shards):
    for clip in islice(iter(ClipBatches(shards, config())), 30):
        episode, time = clip.frames[:, :, 0, 0, 0].int(), clip.frames[:, :, 0, 0, 2].int()
        assert (episode == episode[:, :1]).all()
        assert (time - time[:, :1] == torch.arange(16)).all()
        assert (clip.actions == time % 15).all()
        assert (clip.first == (time == 0)).all()


def test_every_start_is_equally_likely(shards):
    batches = ClipBatches(shards, config(clips_per_read=8))
    epochs = 60
    seen = take(batches, batches.batches_per_epoch * epochs)
    starts = {(e, t) for e, n in enumerate(LENGTHS) for t in range(n - 16 + 1)}
    counts = np.array([seen.count(start) for start in sorted(starts)])
    assert set(seen) <= starts
    expected = len(seen) / len(starts)
    # drawn at even distances: the spread is at most that of a fair draw (chi squared about 1)
    assert ((counts - expected) ** 2 / expected).mean() < 1.1
    inner = {(e, t) for e, t in starts if 0 < t < LENGTHS[e] - 16}
    edge = starts - inner
    share = np.mean([start in edge for start in seen])
    assert abs(share - len(edge) / len(starts)) < 0.02


def test_epochs_differ_but_seeds_repeat(shards):
    batches = ClipBatches(shards, config())
    n = batches.batches_per_epoch
    two_epochs = take(batches, 2 * n)
    assert two_epochs == take(ClipBatches(shards, config()), 2 * n)
    assert two_epochs[: len(two_epochs) // 2] != two_epochs[len(two_epochs) // 2 :]
    assert take(ClipBatches(shards, config(seed=1)), n) != two_epochs[: 8 * n]
    fixed = ClipBatches(shards, config(shuffle=False))
    assert take(fixed, 2 * n) == 2 * take(fixed, n)


def test_clips_are_shuffled_across_episodes(shards):
    """Neighbors in the order come from different episodes far more often than not."""
    order = [episode for episode, _ in take(ClipBatches(shards, config()), 30)]
    assert np.mean(np.diff(order) == 0) < 0.25
    assert len({e for e in order[:8]}) > 3


def test_fixed_clips_never_repeat_and_see_every_episode(shards):
    for batches in (2, 12):
        clips = fixed_clips(shards, config(), batches)
        seen = [origin for clip in clips for origin in origins(clip)]
        assert len(seen) == len(set(seen)) == batches * 8
        assert seen == [origin for clip in clips for origin in origins(clip)]
    usable = {episode for episode, length in enumerate(LENGTHS) if length >= 16}
    assert len({episode for episode, _ in seen}) > 0.9 * len(usable)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_out_the_same_global_batches(shards, world_size):
    whole = [origins(clip) for clip in islice(iter(ClipBatches(shards, config())), 25)]
    ranks = [
        [origins(c) for c in islice(iter(ClipBatches(shards, config(), rank, world_size)), 25)]
        for rank in range(world_size)
    ]
    for n, batch in enumerate(whole):
        parts = [rank[n] for rank in ranks]
        assert all(len(part) == 8 // world_size for part in parts)
        assert sorted(origin for part in parts for origin in part) == sorted(batch)


def test_ranks_read_different_episodes(shards):
    """Within an epoch an episode is read by one rank, but for the few at the cuts."""
    read = []
    for rank in range(2):
        batches = ClipBatches(shards, config(), rank, 2)
        read.append({e for e, _ in take(batches, batches.batches_per_epoch)})
    assert len(read[0] & read[1]) <= 4  # one for each lane


@pytest.mark.parametrize("done", [0, 1, 7, 40, 97])
def test_resumed_at_any_batch_it_goes_on_exactly(shards, done):
    for in_memory in (False, True):
        settings = config(in_memory=in_memory)
        unbroken = list(islice(iter(ClipBatches(shards, settings)), done + 12))[done:]
        resumed = islice(iter(ClipBatches(shards, settings, start_batch=done)), 12)
        for a, b in zip(unbroken, resumed, strict=True):
            assert torch.equal(a.frames, b.frames) and torch.equal(a.actions, b.actions)


def test_workers_deliver_the_same_batches_in_order(shards):
    alone = take(ClipBatches(shards, config(), batches=7), 99)
    assert len(alone) == 7 * 8
    loader = clip_loader(ClipBatches(shards, config(), batches=7), workers=2)
    assert [origin for clip in loader for origin in origins(clip)] == alone


def test_episodes_are_dropped_when_their_clips_are_out(shards):
    batches = ClipBatches(shards, config(window=4))
    iterator = iter(batches)
    for _ in islice(iterator, 20):
        pass
    kept = iterator.gi_frame.f_locals["episodes"]._kept
    assert 0 < len(kept) < 20
    iterator.close()


def test_memmap_and_npz_give_the_same_clips(shards, tmp_path):
    from workshop_lib.data.convert import convert

    expected = take(ClipBatches(shards, config()), 20)
    for kind in ("npy", "npz"):
        copies = convert(str(shards[0].parent), str(tmp_path / kind), to=kind)
        assert take(ClipBatches(copies, config()), 20) == expected


def test_bad_records_are_left_out(tmp_path, shards):
    from tests.data.test_shards import records_with_bad_ones

    path = tmp_path / "bad.array_record"
    records_with_bad_ones(path)
    with pytest.raises(WorkshopError, match="record 1"):
        ClipBatches([path], config(length=4))
    seen = take(ClipBatches([path], config(length=4, skip_bad=True)), 20)
    assert {episode for episode, _ in seen} == {0, 2, 4}


def test_actions_that_nobody_recorded_are_marked(tmp_path):
    with ShardWriter(tmp_path / "a.npz") as writer:
        writer.write(Episode(np.zeros((20, 8, 8, 3), np.uint8)))
    clip = next(iter(ClipBatches([tmp_path / "a.npz"], config())))
    assert (clip.actions == UNKNOWN_ACTION).all()


def test_tokens_are_those_of_the_frames(tmp_path):
    episodes = with_tokens(numbered_episodes([40, 25]))
    for number, episode in enumerate(episodes):
        write(tmp_path / f"{number}.array_record", [episode])
    paths = [tmp_path / "0.array_record", tmp_path / "1.array_record"]
    for clip in islice(iter(ClipBatches(paths, config())), 5):
        assert clip.tokens.dtype == torch.int64 and clip.tokens.shape == (8, 16, 2, 3)
        assert torch.equal(clip.tokens[..., 1, 2], clip.frames[:, :, 0, 0, 2].long())
    write(tmp_path / "2.array_record", numbered_episodes([30]))
    with pytest.raises(WorkshopError, match=r"token grids .*None.* do not mix"):
        ClipBatches([*paths, tmp_path / "2.array_record"], config())


def test_frames_without_tokens_have_none(shards):
    assert next(iter(ClipBatches(shards, config()))).tokens is None


@pytest.mark.parametrize(
    ("changes", "ranks", "complaint"),
    [
        ({"length": 500}, 1, "no episode is 500 frames long"),
        ({"batch_size": 6}, 1, "multiple of lanes"),
        ({}, 3, "multiple of the 3 ranks"),
        ({"length": 0}, 1, "length must be 1 or more"),
        ({"clips_per_read": 0}, 1, "clips_per_read"),
    ],
)
def test_impossible_settings_are_named(shards, changes, ranks, complaint):
    with pytest.raises(WorkshopError, match=complaint):
        ClipBatches(shards, config(**changes), 0, ranks)


def test_one_short_recording_still_gives_a_batch():
    plan = plan_epoch(np.array([20]), config(), 0)
    assert len(plan.start) == 8 and (plan.episode == 0).all()
    assert plan.start.min() >= 0 and plan.start.max() <= 4


def test_the_data_module_keeps_the_sets_apart():
    data = ClipDataModule(str(SAMPLE / "easy"), length=8, batch_size=16, val_batches=3)
    train = next(iter(data.train_dataloader()))
    assert isinstance(train, Clip) and train.frames.shape == (16, 8, 64, 64, 3)
    val = [list(data.val_dataloader()) for _ in range(2)]
    assert len(val[0]) == 3
    for a, b in zip(*val, strict=True):
        assert torch.equal(a.frames, b.frames)  # validation sees the same clips every time
    assert split_shards(SAMPLE / "easy", "val")[0].parent.name == "val"
    test = next(iter(data.test_dataloader()))
    assert not torch.equal(test.frames, val[0][0].frames)


def test_the_default_loader_survives_a_parent_that_has_read(shards):
    """Workers must not crash although the parent has used array_record, which forbids forks."""
    code = """
        import sys
        from pathlib import Path
        from itertools import islice
        from workshop_lib.data.clips import ClipBatches, ClipConfig
        from workshop_lib.data.datamodule import clip_loader
        if __name__ == "__main__":
            config = ClipConfig(length=16, batch_size=8, lanes=4)
            clips = ClipBatches([Path(p) for p in sys.argv[1:]], config, batches=6)
            assert len(list(clip_loader(clips))) == 6
            assert len(list(clip_loader(clips, workers=2))) == 6
    """
    script = shards[0].parent / "script.py"
    script.write_text(textwrap.dedent(code))
    run = subprocess.run([sys.executable, str(script), *map(str, shards)], timeout=120)
    assert run.returncode == 0


def test_a_clip_checks_itself():
    clip = Clip(
        torch.zeros(2, 3, 8, 8, 3, dtype=torch.uint8),
        torch.zeros(2, 3, dtype=torch.int64),
        torch.zeros(2, 3, dtype=torch.bool),
    )
    assert clip.video.min() == -1 and clip.video.shape == (2, 3, 3, 8, 8)
    assert len(clip[:1]) == 1
    with pytest.raises(ValueError, match="actions"):
        Clip(clip.frames, clip.actions[:, :2], clip.first)
    tokens = torch.arange(24).view(2, 3, 2, 2)
    encoded = Clip(clip.frames, clip.actions, clip.first, tokens)
    assert torch.equal(encoded[1:].tokens, tokens[1:])
    assert torch.equal(encoded.to("cpu").tokens, tokens) and clip.to("cpu").tokens is None
    for wrong in (tokens.int(), tokens[:, :2], tokens[..., 0]):
        with pytest.raises(ValueError, match="tokens"):
            Clip(clip.frames, clip.actions, clip.first, wrong)
    with pytest.raises(ValueError, match="uint8"):
        Clip(clip.frames.float(), clip.actions, clip.first)


def test_a_clip_says_how_its_level_ended() -> None:
    """At the last frame of a level alone, and -1 where nobody knows."""
    coin, died, cut, silent, unpaid = numbered_episodes([5] * 5)
    last = np.arange(5) == 4
    paid = last.astype(np.float32)
    parts = [
        replace(coin, over=last, reward=10 * paid),
        replace(died, over=last, reward=0 * paid),
        replace(cut, over=~last & last, reward=0 * paid),
        silent,
        replace(unpaid, over=last, reward=None),
    ]
    clip = make_clip([(part, 2) for part in parts], 3)
    expected = [[0, 0, 1], [0, 0, 2], [0, 0, 0], [-1, -1, -1], [0, 0, -1]]
    assert clip.ending.tolist() == expected
    assert make_clip([(part, 0) for part in parts], 3).ending.tolist()[:2] == [[0] * 3] * 2
    assert clip[1:3].ending.tolist() == expected[1:3]
    assert make_clip([(silent, 0)], 3).ending is None
    for part in parts:
        again = decode_episode(encode_episode(part), "here")
        assert (again.over is None) == (part.over is None)
        assert part.over is None or np.array_equal(again.over, part.over)

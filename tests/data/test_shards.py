"""Shards of every format, whole or torn, with and without the array_record package."""

import os
import pickle
import subprocess
import sys
import textwrap
from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import SAMPLE, numbered_episodes
from workshop_lib.data.index import load_index
from workshop_lib.data.shards import find_shards, open_shard, read_index
from workshop_lib.data.writer import ShardWriter
from workshop_lib.errors import WorkshopError

SUFFIXES = [".array_record", ".npz", ".frames.npy"]
LENGTHS = [3, 160, 1, 47]


def with_tokens(episodes, grid=(2, 3)):
    """Token (0, 0) of every frame says which frame it is."""
    return [
        replace(e, tokens=np.arange(len(e), dtype=np.uint16)[:, None, None] + np.zeros(grid, "u2"))
        for e in episodes
    ]


def write(path, episodes):
    with ShardWriter(path) as writer:
        for episode in episodes:
            writer.write(episode)
    return path


def same(a, b):
    for name in ("frames", "actions", "first", "reward", "tokens"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    return a.level_seed == b.level_seed


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("tokens", [False, True])
def test_round_trip(tmp_path, suffix, tokens):
    episodes = numbered_episodes(LENGTHS)
    episodes = with_tokens(episodes) if tokens else episodes
    shard = open_shard(write(tmp_path / f"a{suffix}", episodes))
    assert len(shard) == len(episodes)
    for index in (2, 0, 3, 1):  # random access
        assert same(shard.read(index), episodes[index])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_index_says_what_a_scan_finds(tmp_path, suffix):
    path = write(tmp_path / f"a{suffix}", numbered_episodes(LENGTHS))
    written = load_index(path)
    (tmp_path / f"{path.name}.index.json").unlink()
    scanned = read_index(path)
    assert scanned == written == load_index(path)
    assert scanned.lengths == LENGTHS and scanned.level_seeds == [0, 1, 2, 3]
    assert sum(scanned.action_counts) == sum(LENGTHS)


def test_a_stale_index_is_made_anew(tmp_path):
    path = write(tmp_path / "a.array_record", numbered_episodes([5, 6]))
    old = (tmp_path / "a.array_record.index.json").read_text()
    path = write(tmp_path / "a.array_record", numbered_episodes([200, 200, 200], size=32))
    (tmp_path / "a.array_record.index.json").write_text(old)
    assert read_index(path).lengths == [200, 200, 200]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_half_written_shard_is_never_there(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    with pytest.raises(RuntimeError), ShardWriter(path) as writer:
        writer.write(numbered_episodes([10])[0])
        assert not path.exists()
        raise RuntimeError("cut off")
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_nothing_that_reads_as_whole(tmp_path):
    code = """
        import os, sys
        from tests.conftest import numbered_episodes
        from workshop_lib.data.writer import ShardWriter
        with ShardWriter(sys.argv[1] + "/a.array_record") as writer:
            for episode in numbered_episodes([100] * 50, size=64):
                writer.write(episode)
            os.kill(os.getpid(), 9)
    """
    run = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(tmp_path)])
    assert run.returncode == -9
    with pytest.raises(WorkshopError, match="no shards"):
        find_shards(tmp_path)
    write(tmp_path / "a.array_record", numbered_episodes([4]))  # and it can be made again
    assert [path.name for path in find_shards(tmp_path)] == ["a.array_record"]
    assert len(open_shard(tmp_path / "a.array_record")) == 1


def test_an_empty_shard_is_not_written(tmp_path):
    with pytest.raises(WorkshopError, match="no episodes"), ShardWriter(tmp_path / "a.npz"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("damage", ["empty", "half", "tail", "garbage", "missing"])
def test_damaged_files_are_named(tmp_path, suffix, damage):
    path = write(tmp_path / f"a{suffix}", numbered_episodes([60] * 20, size=32))
    data = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(
            {
                "empty": b"",
                "half": data[: len(data) // 2],
                "tail": data[:-100],
                "garbage": b"this is not a shard " * 4000,
            }[damage]
        )
    with pytest.raises(WorkshopError, match=f"a{suffix}"):
        shard = open_shard(path)
        for index in range(len(shard)):
            shard.read(index)


def test_an_episode_of_another_size_is_refused(tmp_path):
    with pytest.raises(WorkshopError, match="record 1"), ShardWriter(tmp_path / "a.npz") as writer:
        writer.write(numbered_episodes([3], size=8)[0])
        writer.write(numbered_episodes([3], size=16)[0])


def test_episodes_with_and_without_tokens_do_not_mix(tmp_path):
    encoded, plain = with_tokens(numbered_episodes([3]))[0], numbered_episodes([3])[0]
    other = with_tokens([plain], grid=(4, 4))[0]
    for pair in ([encoded, plain], [plain, encoded], [encoded, other]):
        with pytest.raises(WorkshopError, match="record 1: token grid"):
            write(tmp_path / "a.npz", pair)
    write(tmp_path / "a.npz", [encoded])
    assert read_index(tmp_path / "a.npz").token_grid == [2, 3]
    (tmp_path / "a.npz.index.json").unlink()
    assert read_index(tmp_path / "a.npz").token_grid == [2, 3]


def records_with_bad_ones(path):
    """Five records: number 1 would run a command, number 3 is cut short."""
    from array_record.python.array_record_module import ArrayRecordWriter

    from workshop_lib.data.episodes import encode_episode

    class Harmful:
        def __reduce__(self):
            return os.system, (f"touch {path}.harmed",)

    good = [encode_episode(episode) for episode in numbered_episodes([5] * 5)]
    good[1] = pickle.dumps({"raw_video": Harmful(), "sequence_length": 1})
    good[3] = good[3][: len(good[3]) // 2]
    writer = ArrayRecordWriter(str(path), "group_size:1,zstd:3")
    for record in good:
        writer.write(record)
    writer.close()


def test_bad_records_are_named_or_skipped_and_counted(tmp_path):
    path = tmp_path / "a.array_record"
    records_with_bad_ones(path)
    with pytest.raises(WorkshopError, match=r"a\.array_record, record 1 .*system"):
        read_index(path)
    index = read_index(path, skip_bad=True)
    assert index.bad == [1, 3] and index.records == [0, 2, 4] and index.level_seeds == [0, 2, 4]
    with pytest.raises(WorkshopError, match="2 bad records"):  # the stored index still warns
        read_index(path)
    assert not (tmp_path / "a.array_record.harmed").exists()


@pytest.mark.parametrize("shard", sorted(SAMPLE.glob("*/*/*.array_record")), ids=str)
def test_the_sample_opens_without_the_array_record_package(shard):
    code = """
        import sys
        sys.modules["array_record"] = None  # as on Windows: importing it fails
        from workshop_lib.data.shards import open_shard, read_all
        from workshop_lib.data.writer import default_format
        assert default_format() == "npz"
        import hashlib
        digest = hashlib.sha256()
        for episode in read_all(open_shard(sys.argv[1])):
            digest.update(episode.frames.tobytes() + episode.actions.tobytes())
        print(digest.hexdigest())
    """
    plain = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(shard)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    import hashlib

    digest, opened = hashlib.sha256(), open_shard(shard)
    for index in range(len(opened)):
        episode = opened.read(index)
        digest.update(episode.frames.tobytes() + episode.actions.tobytes())
    assert plain.stdout.strip() == digest.hexdigest()


FORK = """
    import os, sys
    from workshop_lib.data.shards import open_shard
    shard = open_shard(sys.argv[1])
    shard.read(0)
    child = os.fork()
    if child == 0:
        again = open_shard(sys.argv[1])
        frames = sum(len(again.read(index)) for index in range(len(again)))
        os._exit(0 if frames == 1600 else 1)
    _, status = os.waitpid(child, 0)
    sys.exit(0 if status == 0 else 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_reads_without_crashing():
    shard = SAMPLE / "easy/val/coinrun-00000-of-00001.array_record"
    for _ in range(3):
        run = subprocess.run([sys.executable, "-c", textwrap.dedent(FORK), str(shard)], timeout=60)
        assert run.returncode == 0

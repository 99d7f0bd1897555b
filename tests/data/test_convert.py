"""From one format to another and back, nothing is lost."""

import numpy as np
import pytest

from tests.conftest import numbered_episodes
from tests.data.test_shards import with_tokens, write
from workshop_lib.data.convert import convert
from workshop_lib.data.shards import find_shards, open_shard, read_all
from workshop_lib.errors import WorkshopError


def test_there_and_back_again(recording, tmp_path):
    convert(str(recording), str(tmp_path / "npy"), to="npy")
    convert(str(tmp_path / "npy"), str(tmp_path / "npz"), to="npz")
    back = convert(str(tmp_path / "npz"), str(tmp_path / "records"), to="array_record")
    for original, copy in zip(find_shards(recording), back, strict=True):
        pairs = zip(read_all(open_shard(original)), read_all(open_shard(copy)), strict=True)
        for a, b in pairs:
            for name in ("frames", "actions", "first", "reward"):
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
            assert a.level_seed == b.level_seed


def test_tokens_go_along(tmp_path):
    write(tmp_path / "a.array_record", with_tokens(numbered_episodes([5, 9])))
    (copy,) = convert(str(tmp_path / "a.array_record"), str(tmp_path / "npy"), to="npy")
    tokens = open_shard(copy).read(1).tokens
    np.testing.assert_array_equal(tokens[:, 0, 0], np.arange(9))


def test_memmap_frames_open_in_plain_numpy(recording, tmp_path):
    (path,) = convert(str(find_shards(recording)[0]), str(tmp_path), to="npy")
    frames = np.load(path, mmap_mode="r")
    shard = open_shard(find_shards(recording)[0])
    np.testing.assert_array_equal(frames[: len(shard.read(0))], shard.read(0).frames)


def test_nothing_is_overwritten(recording, tmp_path):
    convert(str(recording), str(tmp_path), to="npz")
    with pytest.raises(WorkshopError, match="exists already"):
        convert(str(recording), str(tmp_path), to="npz")

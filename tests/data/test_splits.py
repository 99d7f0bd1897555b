"""Splits by level: nothing leaks, the manifest is true, and what is wrong is named."""

import hashlib
import json
import shutil

import pytest

from tests.conftest import SAMPLE, numbered_episodes
from workshop_lib.data.shards import find_shards, open_shard, read_all, read_index
from workshop_lib.data.splits import SPLITS, check_ranges, load_manifest, split_shards
from workshop_lib.data.splitting import split
from workshop_lib.data.writer import ShardWriter
from workshop_lib.errors import WorkshopError


def write(path, episodes):
    with ShardWriter(path) as writer:
        for episode in episodes:
            writer.write(episode)


def levels(folder, name):
    return {e.level_seed for path in split_shards(folder, name) for e in read_all(open_shard(path))}


def test_sets_share_no_level_and_lose_no_episode(recording, dataset):
    sets = {name: levels(dataset, name) for name in SPLITS}
    assert sets["train"].isdisjoint(sets["val"] | sets["test"])
    assert sets["val"].isdisjoint(sets["test"])
    manifest = load_manifest(dataset, verify=True)
    source = [read_index(path) for path in find_shards(recording)]
    parts = manifest["splits"].values()
    assert sum(p["frames"] for p in parts) == sum(index.frames for index in source)
    assert sum(p["episodes"] for p in parts) == sum(len(index.lengths) for index in source)
    for name, part in manifest["splits"].items():
        assert all(part["levels"][0] <= level < part["levels"][1] for level in sets[name])
        assert part["level_count"] == len(sets[name])
    assert 0.7 < manifest["splits"]["train"]["level_count"] / sum(map(len, sets.values())) < 0.9


def test_the_manifest_says_where_the_data_came_from(dataset):
    manifest = load_manifest(dataset)
    assert (manifest["env"], manifest["look"], manifest["policy"]) == ("coinrun", "easy", "mixed")
    train = manifest["splits"]["train"]
    histogram = [0] * 15
    for path in split_shards(dataset, "train"):
        for episode in read_all(open_shard(path)):
            for action in episode.actions:
                histogram[action] += 1
    assert histogram[: len(train["action_histogram"])] == train["action_histogram"]
    shard = train["shards"][0]
    data = (dataset / shard["file"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == shard["sha256"] and len(data) == shard["bytes"]
    assert manifest["library_version"] and manifest["command"]


def test_given_ranges_are_kept(tmp_path):
    write(tmp_path / "in/a.npz", numbered_episodes([3] * 20))
    split(str(tmp_path / "in"), out=str(tmp_path / "out"), ranges="train=0:10,val=10:12,test=15:20")
    assert levels(tmp_path / "out", "train") == set(range(10))
    assert levels(tmp_path / "out", "test") == set(range(15, 20))


@pytest.mark.parametrize(
    ("ranges", "complaint"),
    [
        ("train=0:12,val=10:12,test=15:20", "train and val both claim level 10"),
        ("train=0:10,val=10:16,test=15:20", "val and test both claim level 15"),
        ("train=5:20,val=1:6,test=0:1", "val and train both claim level 5"),
        ("train=0:10,val=10:12", "must name train, val and test"),
        ("train=0:10,val=10:12,test=30:40", "test would be empty"),
        ("train=0:10,val=12:10,test=15:20", "empty level range"),
        ("train=all,val=10:12,test=15:20", "START:STOP"),
    ],
)
def test_leaking_or_wrong_ranges_are_refused(tmp_path, ranges, complaint):
    write(tmp_path / "in/a.npz", numbered_episodes([3] * 20))
    with pytest.raises(WorkshopError, match=complaint):
        split(str(tmp_path / "in"), out=str(tmp_path / "out"), ranges=ranges)


def test_sets_sampled_one_by_one_are_checked_in_place(tmp_path):
    for name, first in (("train", 0), ("val", 100), ("test", 200)):
        write(tmp_path / name / "a.array_record", numbered_episodes([4] * 5, first_level=first))
    assert split(str(tmp_path))["splits"]["val"]["levels"] == [100, 105]
    write(tmp_path / "val/b.array_record", numbered_episodes([4], first_level=3))  # a train level
    with pytest.raises(WorkshopError, match=r"leaking split.*share 1 levels, e\.g\. 3"):
        split(str(tmp_path))


def test_a_manifest_that_leaks_or_lies_is_refused(tmp_path):
    shutil.copytree(SAMPLE / "easy", tmp_path / "easy")
    path = tmp_path / "easy/manifest.json"
    good = json.loads(path.read_text())
    load_manifest(tmp_path / "easy", verify=True)

    leaking = json.loads(path.read_text())
    leaking["splits"]["val"]["levels"] = [99_999, 110_000]
    path.write_text(json.dumps(leaking))
    with pytest.raises(WorkshopError, match="leaking split"):
        split_shards(tmp_path / "easy", "train")

    path.write_text(json.dumps(good))
    shard = tmp_path / "easy" / good["splits"]["test"]["shards"][0]["file"]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    load_manifest(tmp_path / "easy")  # same size: not noticed without reading all of it
    with pytest.raises(WorkshopError, match="SHA-256"):
        load_manifest(tmp_path / "easy", verify=True)
    shard.write_bytes(data[:-1])
    with pytest.raises(WorkshopError, match="test/coinrun"):
        load_manifest(tmp_path / "easy")
    path.write_text("{")
    with pytest.raises(WorkshopError, match="not a manifest"):
        load_manifest(tmp_path / "easy")
    path.unlink()
    with pytest.raises(WorkshopError, match="workshop split"):
        load_manifest(tmp_path / "easy")


def test_unknown_levels_need_a_clear_word(tmp_path):
    episodes = [
        type(e)(e.frames, e.actions, e.first) for e in numbered_episodes([5] * 10)
    ]  # nobody recorded their levels
    write(tmp_path / "in/a.array_record", episodes)
    with pytest.raises(WorkshopError, match="--by episode"):
        split(str(tmp_path / "in"), out=str(tmp_path / "out"))
    manifest = split(str(tmp_path / "in"), out=str(tmp_path / "out"), by="episode")
    counts = [part["episodes"] for part in manifest["splits"].values()]
    assert counts == [8, 1, 1]
    seen = [
        int(e.frames[0, 0, 0, 0])
        for name in SPLITS
        for path in split_shards(tmp_path / "out", name)
        for e in read_all(open_shard(path))
    ]
    assert sorted(seen) == list(range(10))


def test_an_existing_split_is_not_overwritten(tmp_path, dataset, recording):
    shutil.copytree(dataset, tmp_path / "out")
    with pytest.raises(WorkshopError, match="holds a split already"):
        split(str(recording), out=str(tmp_path / "out"))


def test_big_sets_go_into_several_shards(tmp_path, recording):
    split(str(recording), out=str(tmp_path / "out"), frames_per_shard=2000)
    shards = split_shards(tmp_path / "out", "train")
    assert len(shards) in (4, 5)
    assert all(1500 < read_index(path).frames < 2500 for path in shards)


def test_touching_ranges_do_not_leak():
    check_ranges({"train": (0, 10), "val": (10, 11), "test": (11, 12)})

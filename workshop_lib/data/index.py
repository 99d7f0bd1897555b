"""What is in a shard, without opening its episodes: a small JSON file beside each shard."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from workshop_lib.data.episodes import Episode
from workshop_lib.data.shards import open_shard
from workshop_lib.errors import WorkshopError

INDEX_SUFFIX = ".index.json"
VERSION = 1


@dataclass(frozen=True)
class ShardIndex:
    """lengths, level_seeds: one entry per episode (a level is None if unknown).

    bad: numbers of the records that cannot be read; they stand in no other list.
    """

    bytes: int
    height: int
    width: int
    records: list[int]
    lengths: list[int]
    level_seeds: list[int | None]
    action_counts: list[int]
    episode_starts: int
    reward_sum: float
    bad: list[int] = field(default_factory=list)
    version: int = VERSION

    @property
    def frames(self) -> int:
        return sum(self.lengths)


def read_index(path: str | Path, skip_bad: bool = False, save: bool = True) -> ShardIndex:
    """The index of a shard: from the file beside it, or by reading the shard once.

    Args:
        path: the shard.
        skip_bad: go on past records that cannot be read, and list them in `bad`.
        save: keep a freshly made index beside the shard, where the folder can be written to.

    Raises WorkshopError naming the file and the record for the first that cannot be read.
    """
    path = Path(path)
    index_path = _index_path(path)
    if index_path.exists() and path.exists():
        stored = _load(index_path)
        if stored is not None and stored.bytes == path.stat().st_size:
            if stored.bad and not skip_bad:
                raise WorkshopError(
                    f"{path}, record {stored.bad[0]}: cannot be read ({len(stored.bad)} bad "
                    f"records in all); --skip-bad goes on without them"
                )
            return stored
    index = _scan(path, skip_bad)
    if save:
        _save(index_path, index)
    return index


def write_index(path: Path, episodes: Iterable[Episode]) -> ShardIndex:
    """Makes and saves the index of a shard just written, from its episodes in order."""
    index = _build(path, enumerate(episodes), [])
    _save(_index_path(path), index)
    return index


def _index_path(path: Path) -> Path:
    return path.with_name(path.name + INDEX_SUFFIX)


def _scan(path: Path, skip_bad: bool) -> ShardIndex:
    shard = open_shard(path)
    bad: list[int] = []

    def episodes() -> Iterator[tuple[int, Episode]]:
        for number in range(len(shard)):
            try:
                episode = shard.read(number)
            except WorkshopError:
                if not skip_bad:
                    raise
                bad.append(number)
                continue
            yield number, episode

    try:
        return _build(path, episodes(), bad)
    finally:
        shard.close()


def _build(path: Path, episodes: Iterable[tuple[int, Episode]], bad: list[int]) -> ShardIndex:
    records: list[int] = []
    lengths: list[int] = []
    seeds: list[int | None] = []
    counts = np.zeros(0, dtype=np.int64)
    size: tuple[int, int] | None = None
    starts, reward_sum = 0, 0.0
    for number, episode in episodes:
        if size is not None and episode.frames.shape[1:3] != size:
            raise WorkshopError(
                f"{path}, record {number}: {episode.frames.shape[1:3]} frames among {size} ones"
            )
        size = episode.frames.shape[1:3]
        records.append(number)
        lengths.append(len(episode))
        seeds.append(episode.level_seed)
        starts += 0 if episode.first is None else int(episode.first[0])
        reward_sum += 0.0 if episode.reward is None else float(episode.reward.sum())
        if episode.actions is not None:
            if episode.actions.min() < 0:
                raise WorkshopError(f"{path}, record {number}: negative action")
            more = np.bincount(episode.actions, minlength=len(counts))
            more[: len(counts)] += counts
            counts = more
    if size is None:
        raise WorkshopError(f"{path}: not one of its {len(bad)} records can be read")
    return ShardIndex(
        bytes=path.stat().st_size,
        height=size[0],
        width=size[1],
        records=records,
        lengths=lengths,
        level_seeds=seeds,
        action_counts=[int(count) for count in counts],
        episode_starts=starts,
        reward_sum=reward_sum,
        bad=bad,
    )


def _load(path: Path) -> ShardIndex | None:
    """The stored index; None if it is torn or of another version, so that it is made anew."""
    try:
        index = ShardIndex(**json.loads(path.read_text()))
    except (json.JSONDecodeError, TypeError, UnicodeDecodeError):
        return None
    return index if index.version == VERSION else None


def _save(path: Path, index: ShardIndex) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(asdict(index)) + "\n")
        os.replace(partial, path)
    except OSError:
        return  # a read-only folder: the index is made again next time

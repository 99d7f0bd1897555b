"""What is in a shard, without opening its episodes: a small JSON file beside each shard."""

from __future__ import annotations

import json
import os
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from workshop_lib.data.episodes import Episode
from workshop_lib.errors import WorkshopError

VERSION = 1


@dataclass(frozen=True)
class ShardIndex:
    """records: the number of each readable episode in the file; lengths, level_seeds: the same
    episodes' frames and levels (None if unknown).

    bytes, fingerprint: size of the shard and checksum of its two ends, by which a stale index is
        known.
    action_counts: how often each action was pressed.
    episode_starts: how many of the episodes begin at their level's start.
    token_grid: [h, w], tokens down and across each frame; None where frames are not encoded.
    bad: numbers of the records that cannot be read.
    """

    bytes: int
    fingerprint: str
    height: int
    width: int
    records: list[int]
    lengths: list[int]
    level_seeds: list[int | None]
    action_counts: list[int]
    episode_starts: int
    reward_sum: float
    bad: list[int] = field(default_factory=list)
    token_grid: list[int] | None = None
    version: int = VERSION

    @property
    def frames(self) -> int:
        return sum(self.lengths)


class IndexBuilder:
    """Gathers the index of a shard, episode by episode."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bad: list[int] = []
        self._records: list[int] = []
        self._lengths: list[int] = []
        self._seeds: list[int | None] = []
        self._counts = np.zeros(0, dtype=np.int64)
        self._size: tuple[int, ...] | None = None
        self._grid: tuple[int, ...] | None = None
        self._starts, self._reward = 0, 0.0

    def add(self, number: int, episode: Episode) -> None:
        """Takes in record `number`.

        Raises WorkshopError if its frames or its grid of tokens have another size than those
        before.
        """
        size = episode.frames.shape[1:3]
        if self._size not in (None, size):
            raise WorkshopError(
                f"{self.path}, record {number}: {size} frames among {self._size} ones"
            )
        grid = None if episode.tokens is None else episode.tokens.shape[1:]
        if self._size is not None and grid != self._grid:
            raise WorkshopError(
                f"{self.path}, record {number}: token grid {grid} among {self._grid}; encode all "
                f"episodes with one tokenizer"
            )
        if episode.actions is not None:
            if episode.actions.min() < 0 or episode.actions.max() > 10_000:
                raise WorkshopError(
                    f"{self.path}, record {number}: actions run from {episode.actions.min()} to "
                    f"{episode.actions.max()}, which no keyboard has"
                )
            counts = np.bincount(episode.actions, minlength=len(self._counts))
            counts[: len(self._counts)] += self._counts
            self._counts = counts
        self._size, self._grid = size, grid
        self._records.append(number)
        self._lengths.append(len(episode))
        self._seeds.append(episode.level_seed)
        self._starts += 0 if episode.first is None else int(episode.first[0])
        self._reward += 0.0 if episode.reward is None else float(episode.reward.sum())

    def finish(self) -> ShardIndex:
        if self._size is None:
            raise WorkshopError(f"{self.path}: not one of its {len(self.bad)} records can be read")
        return ShardIndex(
            bytes=self.path.stat().st_size,
            fingerprint=_fingerprint(self.path),
            height=self._size[0],
            width=self._size[1],
            records=self._records,
            lengths=self._lengths,
            level_seeds=self._seeds,
            action_counts=self._counts.tolist(),
            episode_starts=self._starts,
            reward_sum=self._reward,
            bad=self.bad,
            token_grid=None if self._grid is None else list(self._grid),
        )


def load_index(shard: Path) -> ShardIndex | None:
    """The stored index of a shard; None if there is none that fits the file as it is now."""
    try:
        index = ShardIndex(**json.loads(_index_path(shard).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    fits = index.version == VERSION and index.bytes == shard.stat().st_size
    return index if fits and index.fingerprint == _fingerprint(shard) else None


def save_index(shard: Path, index: ShardIndex) -> None:
    """Keeps the index beside its shard; in a read-only folder it is made anew next time."""
    path = _index_path(shard)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(json.dumps(asdict(index)) + "\n")
        os.replace(partial, path)
    except OSError:
        return


def _fingerprint(shard: Path) -> str:
    with open(shard, "rb") as file:
        ends = file.read(4096)
        file.seek(-min(4096, shard.stat().st_size), os.SEEK_END)
        ends += file.read(4096)
    return f"{zlib.crc32(ends):08x}"


def _index_path(shard: Path) -> Path:
    return shard.with_name(shard.name + ".index.json")

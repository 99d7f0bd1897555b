"""Writes shards: whole or not at all, each with its index beside it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from workshop_lib.data.episodes import PER_FRAME, Episode, encode_episode
from workshop_lib.data.index import IndexBuilder, save_index
from workshop_lib.data.shards import (
    ARRAY_RECORD,
    FORMATS,
    MEMMAP,
    array_record_module,
    companion,
    is_shard,
)
from workshop_lib.errors import WorkshopError

# One record per group: random access reads nothing else. zstd 3: 14 times smaller than raw.
WRITER_OPTIONS = "group_size:1,zstd:3"


def default_format() -> str:
    """What this machine can write: "array_record", or "npz" where that cannot be loaded."""
    return "npz" if array_record_module() is None else "array_record"


class ShardWriter:
    """Writes episodes to a new shard; the suffix of `path` chooses the format.

    Use it with `with`. The file is written under a temporary name, and gets its own when the
    block ends well, so that a half-written shard is never taken for a whole one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not is_shard(self.path):
            raise WorkshopError(
                f"{path}: a shard's name ends in one of {', '.join(FORMATS.values())}"
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = _partial(self.path)
        self._index = IndexBuilder(self.path)
        self._count = 0
        self._episodes: list[Episode] = []
        self._records: Any = None
        if self.path.suffix == ARRAY_RECORD:
            self._records = _open_records(self._partial)

    def write(self, episode: Episode) -> None:
        self._index.add(self._count, episode)
        self._count += 1
        if self._records is not None:
            self._records.write(encode_episode(episode))
        else:
            self._episodes.append(episode)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, error_type: type | None, *_: object) -> None:
        if self._records is not None:
            self._records.close()
        try:
            if error_type is None:
                self._finish()
        finally:
            self._partial.unlink(missing_ok=True)

    def _finish(self) -> None:
        if self._count == 0:
            raise WorkshopError(f"{self.path}: no episodes to write")
        if self._records is None:
            self._write_columns()
        os.replace(self._partial, self.path)
        save_index(self.path, self._index.finish())

    def _write_columns(self) -> None:
        columns = _columns(self._episodes, self.path)
        if not self.path.name.endswith(MEMMAP):
            with open(self._partial, "wb") as file:
                np.savez_compressed(file, **columns)
            return
        frames = columns.pop("frames")
        beside = companion(self.path)
        with open(_partial(beside), "wb") as file:
            np.savez_compressed(file, **columns)
        with open(self._partial, "wb") as file:
            np.save(file, frames)
        os.replace(_partial(beside), beside)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.partial")


def _open_records(path: Path) -> Any:
    module = array_record_module()
    if module is None:
        raise WorkshopError(
            f"{path.name}: array-record cannot be loaded here ({sys.platform}); write .npz shards "
            f"instead (--format npz)"
        )
    return module.ArrayRecordWriter(str(path), WRITER_OPTIONS)


def _columns(episodes: list[Episode], path: Path) -> dict[str, np.ndarray]:
    sizes = {episode.frames.shape[1:] for episode in episodes}
    if len(sizes) > 1:
        raise WorkshopError(f"{path}: frames of different sizes {sizes} do not go in one array")
    seeds = [-1 if episode.level_seed is None else episode.level_seed for episode in episodes]
    columns = {
        "frames": np.concatenate([episode.frames for episode in episodes]),
        "lengths": np.array([len(episode) for episode in episodes], dtype=np.int64),
        "level_seeds": np.array(seeds, dtype=np.int64),
    }
    for key in (*PER_FRAME, "tokens"):
        values = [getattr(episode, key) for episode in episodes]
        if all(value is not None for value in values):
            columns[key] = np.concatenate(values)
    return columns

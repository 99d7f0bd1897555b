"""Shards: files that hold many episodes, in three formats behind one reader.

    NAME.array_record   compressed, random access, the format of the field (the default)
    NAME.npz            one compressed numpy file, loaded whole; opens anywhere
    NAME.frames.npy     all frames uncompressed in one array that is mapped, not read; the rest
                        in NAME.frames.npz beside it

A shard is written under a temporary name and renamed when it is whole: a half-written one is
never taken for a finished one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from workshop_lib.data.episodes import Episode, decode_episode, encode_episode
from workshop_lib.errors import WorkshopError

ARRAY_RECORD, NPZ, MEMMAP = ".array_record", ".npz", ".frames.npy"
FORMATS = {"array_record": ARRAY_RECORD, "npz": NPZ, "npy": MEMMAP}
# One record per group: random access reads nothing else. zstd 3: 14 times smaller than raw.
WRITER_OPTIONS = "group_size:1,zstd:3"
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"

_opened_before_fork = False
_unsafe_after_fork = False


def _after_fork() -> None:
    global _unsafe_after_fork
    _unsafe_after_fork = _opened_before_fork


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Shard(Protocol):
    """Read access to the episodes of one file; safe to use from several threads."""

    path: Path

    def __len__(self) -> int: ...
    def read(self, index: int) -> Episode: ...
    def close(self) -> None: ...


def open_shard(path: str | Path) -> Shard:
    """Opens a shard of any format for reading.

    Raises WorkshopError naming the file if it is missing, empty, torn, or no shard.
    """
    path = Path(path)
    if not path.is_file():
        raise WorkshopError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise WorkshopError(f"{path}: empty file; delete it and make it again")
    if path.name.endswith(MEMMAP):
        return ColumnShard(path, np.load(path, mmap_mode="r"), _load_npz(_companion(path)))
    if path.suffix == NPZ:
        columns = _load_npz(path)
        if "frames" not in columns:
            raise WorkshopError(f"{path}: no array named 'frames' (found: {', '.join(columns)})")
        return ColumnShard(path, columns["frames"], columns)
    if path.suffix == ARRAY_RECORD:
        return RecordShard(path)
    raise WorkshopError(f"{path}: unknown kind of shard; known are {', '.join(FORMATS.values())}")


def find_shards(place: str | Path) -> list[Path]:
    """The shards directly in a folder, by name, or the one file given.

    Raises WorkshopError if there is none.
    """
    place = Path(place)
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise WorkshopError(f"{place}: no such file or folder")
    shards = [path for path in sorted(place.iterdir()) if is_shard(path)]
    if not shards:
        raise WorkshopError(f"{place}: no shards in this folder (*.array_record, *.npz, *.npy)")
    return shards


def is_shard(path: Path) -> bool:
    """By name only; companions of memmap shards and index files are not shards."""
    return path.name.endswith((ARRAY_RECORD, MEMMAP)) or (
        path.suffix == NPZ and not path.name.endswith(".frames.npz")
    )


def default_format() -> str:
    """What this machine can write: "array_record", or "npz" where that cannot be loaded."""
    try:
        import array_record.python.array_record_module  # noqa: F401
    except ImportError:
        return "npz"
    return "array_record"


class RecordShard:
    """An ArrayRecord file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read, self._count, self.close = _open_array_record(path)
        if self._count == 0:
            raise WorkshopError(
                f"{path}: no records can be read; it is torn, unfinished or no ArrayRecord file. "
                f"Delete it and make it again"
            )

    def __len__(self) -> int:
        return self._count

    def read_bytes(self, index: int) -> bytes:
        """Record `index` as it lies on disk, decompressed."""
        if not 0 <= index < self._count:
            raise IndexError(index)
        return self._read(index)

    def read(self, index: int) -> Episode:
        return decode_episode(self.read_bytes(index), f"{self.path}, record {index}")


def _open_array_record(path: Path) -> tuple[Callable[[int], bytes], int, Callable[[], None]]:
    """(read one record, number of records, close), by the array_record package if it can be had.

    The package crashes a forked process whose parent had used it; such a process, and machines
    without the package, get the plain Python reader.
    """
    global _opened_before_fork
    module: Any = None
    if not _unsafe_after_fork:
        try:
            from array_record.python import array_record_module as module
        except ImportError:
            module = None
    if module is None:
        from workshop_lib.data.plain_array_record import PlainArrayRecordReader

        plain = PlainArrayRecordReader(path)
        return plain.read, len(plain), plain.close
    _opened_before_fork = True
    reader = module.ArrayRecordReader(str(path), READER_OPTIONS)
    if not reader.ok():
        return _unreadable, 0, reader.close

    def read(index: int) -> bytes:
        try:
            return reader.read([index])[0]
        except Exception as error:
            raise WorkshopError(f"{path}, record {index}: cannot be read ({error})") from error

    return read, reader.num_records(), reader.close


def _unreadable(index: int) -> bytes:
    raise IndexError(index)


class ColumnShard:
    """Episodes laid end to end in a few arrays: frames, lengths, and what else is known."""

    def __init__(self, path: Path, frames: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        self.path, self._frames, self._columns = path, frames, columns
        if frames.dtype != np.uint8 or frames.ndim != 4:
            raise WorkshopError(
                f"{path}: frames must be uint8 (F, H, W, 3), got {frames.dtype} {frames.shape}"
            )
        self._lengths = columns.get("lengths", np.array([len(frames)]))
        self._ends = np.cumsum(self._lengths)
        if (self._lengths < 1).any() or self._ends[-1] != len(frames):
            raise WorkshopError(f"{path}: lengths do not add up to its {len(frames)} frames")
        for key in ("actions", "first", "reward"):
            if key in columns and columns[key].shape != (len(frames),):
                raise WorkshopError(f"{path}: {key} must have one entry for each frame")

    def __len__(self) -> int:
        return len(self._lengths)

    def read(self, index: int) -> Episode:
        end = int(self._ends[index])
        part = slice(end - int(self._lengths[index]), end)
        seeds = self._columns.get("level_seeds")
        seed = None if seeds is None or seeds[index] < 0 else int(seeds[index])
        columns = {
            key: self._columns[key][part]
            for key in ("actions", "first", "reward")
            if key in self._columns
        }
        return Episode(frames=self._frames[part], level_seed=seed, **columns)

    def close(self) -> None:
        return None


def _companion(path: Path) -> Path:
    return path.with_suffix(".npz")


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise WorkshopError(f"{path}: missing; it belongs to the .npy file beside it") from None
    except Exception as error:
        raise WorkshopError(f"{path}: cannot be read as .npz ({error})") from error


class ShardWriter:
    """Writes episodes to a new shard; the suffix of `path` chooses the format.

    Use it with `with`: on leaving, the file gets its final name; after an error it is removed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not is_shard(self.path):
            raise WorkshopError(
                f"{path}: a shard's name ends in one of {', '.join(FORMATS.values())}"
            )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.count = 0
        # The suffix stays last in the temporary name, but no reader takes it for a shard.
        self._partial = self.path.with_name(f".{self.path.name}.partial")
        self._episodes: list[Episode] = []
        self._records: Any = None
        if self.path.suffix == ARRAY_RECORD:
            self._records = _array_record_writer(self._partial)

    def write(self, episode: Episode) -> None:
        if self._records is not None:
            self.write_bytes(encode_episode(episode))
        else:
            self._episodes.append(episode)
            self.count += 1

    def write_bytes(self, record: bytes) -> None:
        """Adds a record that `encode_episode` made (ArrayRecord shards only)."""
        self._records.write(record)
        self.count += 1

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, error_type: type | None, *_: object) -> None:
        if self._records is not None:
            self._records.close()
        if error_type is None and self.count == 0:
            error = WorkshopError(f"{self.path}: no episodes to write")
        else:
            error = None
        if error_type is not None or error is not None:
            self._partial.unlink(missing_ok=True)
            if error is not None:
                raise error
            return
        if self._records is None:
            self._write_columns()
        os.replace(self._partial, self.path)

    def _write_columns(self) -> None:
        columns = _columns(self._episodes, self.path)
        if self.path.name.endswith(MEMMAP):
            frames = columns.pop("frames")
            companion = _companion(self.path)
            _save(companion, lambda file: np.savez_compressed(file, **columns))
            with open(self._partial, "wb") as file:
                np.save(file, frames)
        else:
            with open(self._partial, "wb") as file:
                np.savez_compressed(file, **columns)


def _array_record_writer(path: Path) -> Any:
    global _opened_before_fork
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise WorkshopError(
            f"{path.name}: array-record cannot be loaded on {sys.platform}; "
            f"write .npz shards instead (--format npz)"
        ) from error
    _opened_before_fork = True
    return array_record_module.ArrayRecordWriter(str(path), WRITER_OPTIONS)


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
    for key in ("actions", "first", "reward"):
        values = [getattr(episode, key) for episode in episodes]
        if all(value is not None for value in values):
            columns[key] = np.concatenate(values)
    return columns


def _save(path: Path, write: Callable[[Any], None]) -> None:
    """Writes a file under a temporary name, then renames it."""
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:
        write(file)
    os.replace(partial, path)


def read_all(shard: Shard) -> Iterator[Episode]:
    """The episodes of a shard in order."""
    for index in range(len(shard)):
        yield shard.read(index)

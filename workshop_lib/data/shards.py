"""Shards: files that hold many episodes, in three formats behind one reader.

    NAME.array_record   compressed, random access, the format of the field (the default)
    NAME.npz            one compressed numpy file, loaded whole; opens anywhere
    NAME.frames.npy     all frames uncompressed in one array that is mapped, not read; the rest
                        in NAME.frames.npz beside it

`writer.py` writes them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from workshop_lib.data.episodes import PER_FRAME, Episode, decode_episode
from workshop_lib.data.index import IndexBuilder, ShardIndex, load_index, save_index
from workshop_lib.errors import WorkshopError

ARRAY_RECORD, NPZ, MEMMAP = ".array_record", ".npz", ".frames.npy"
FORMATS = {"array_record": ARRAY_RECORD, "npz": NPZ, "npy": MEMMAP}
READER_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"


class _ForkGuard:
    """The array_record package crashes a forked process whose parent had used it."""

    used = False
    unsafe = False

    @classmethod
    def after_fork(cls) -> None:
        cls.unsafe = cls.used


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ForkGuard.after_fork)


def array_record_module() -> Any | None:
    """The array_record package, or None where it is missing or would crash (see _ForkGuard)."""
    if _ForkGuard.unsafe:
        return None
    try:
        from array_record.python import array_record_module as module
    except ImportError:
        return None
    _ForkGuard.used = True
    return module


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
        return ColumnShard(path, _map_npy(path), _load_npz(companion(path)))
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

    Without the package, and in a forked process, the plain Python reader serves.
    """
    module = array_record_module()
    if module is None:
        from workshop_lib.data.plain_array_record import PlainArrayRecordReader

        plain = PlainArrayRecordReader(path)
        return plain.read, len(plain), plain.close
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
        for key in PER_FRAME:
            if key in columns and columns[key].shape != (len(frames),):
                raise WorkshopError(f"{path}: {key} must have one entry for each frame")
        if "tokens" in columns and len(columns["tokens"]) != len(frames):
            raise WorkshopError(f"{path}: tokens must have one grid for each frame")

    def __len__(self) -> int:
        return len(self._lengths)

    def read(self, index: int) -> Episode:
        end = int(self._ends[index])
        part = slice(end - int(self._lengths[index]), end)
        seeds = self._columns.get("level_seeds")
        seed = None if seeds is None or seeds[index] < 0 else int(seeds[index])
        columns = {
            key: self._columns[key][part] for key in (*PER_FRAME, "tokens") if key in self._columns
        }
        return Episode(frames=self._frames[part], level_seed=seed, **columns)

    def close(self) -> None:
        return None


def companion(path: Path) -> Path:
    return path.with_suffix(".npz")


def _map_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise WorkshopError(f"{path}: cannot be read as .npy ({error})") from error


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise WorkshopError(f"{path}: missing; it belongs to the .npy file beside it") from None
    except Exception as error:
        raise WorkshopError(f"{path}: cannot be read as .npz ({error})") from error


def read_index(path: str | Path, skip_bad: bool = False) -> ShardIndex:
    """The index of a shard: from the file beside it, or by reading the shard once.

    A freshly made index is kept beside the shard, where the folder can be written to.

    Args:
        path: the shard.
        skip_bad: go on past records that cannot be read, and list them in `bad`.

    Raises WorkshopError naming the file and the record for the first that cannot be read.
    """
    path = Path(path)
    index = load_index(path)
    if index is None:
        index = _scan(path, skip_bad)
        save_index(path, index)
    if index.bad and not skip_bad:
        raise WorkshopError(
            f"{path}, record {index.bad[0]}: cannot be read ({len(index.bad)} bad records in "
            f"all); --skip-bad goes on without them"
        )
    return index


def _scan(path: Path, skip_bad: bool) -> ShardIndex:
    builder = IndexBuilder(path)
    shard = open_shard(path)
    try:
        for number in range(len(shard)):
            try:
                builder.add(number, shard.read(number))
            except WorkshopError:
                if not skip_bad:
                    raise
                builder.bad.append(number)
    finally:
        shard.close()
    return builder.finish()


def read_all(shard: Shard) -> Iterator[Episode]:
    """The episodes of a shard in order."""
    for index in range(len(shard)):
        yield shard.read(index)


def read_episode(shards: list[Path], number: int, skip_bad: bool = False) -> Episode:
    """Readable episode `number`, counted over all shards from 0.

    Raises WorkshopError if there are not so many.
    """
    left = number
    for path in shards:
        records = read_index(path, skip_bad=skip_bad).records
        if 0 <= left < len(records):
            shard = open_shard(path)
            try:
                return shard.read(records[left])
            finally:
                shard.close()
        left -= len(records)
    raise WorkshopError(f"no episode {number} in {shards[0].parent}")

"""Makes the three sets and the manifest that describes them: `workshop split`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from workshop_lib import __version__
from workshop_lib.data.encoded import ENCODING_FILE, KEY
from workshop_lib.data.index import ShardIndex
from workshop_lib.data.sampling import SETTINGS_FILE, parse_levels
from workshop_lib.data.shards import FORMATS, Shard, find_shards, open_shard, read_index
from workshop_lib.data.splits import MANIFEST, SPLITS, check_ranges, file_sha256
from workshop_lib.data.writer import ShardWriter
from workshop_lib.errors import WorkshopError

Format = Literal["same", "array_record", "npz", "npy"]


@dataclass(frozen=True)
class Piece:
    """One readable episode of a shard: where it is, how long, and which level it plays."""

    shard: Path
    record: int
    frames: int
    level: int


def split(
    source: str,
    out: str | None = None,
    val: float = 0.1,
    test: float = 0.1,
    ranges: str | None = None,
    by: Literal["level", "episode"] = "level",
    frames_per_shard: int = 100_000,
    format: Format = "same",
    skip_bad: bool = False,
) -> dict[str, Any]:
    """Splits recorded episodes by level into train, val and test, and writes manifest.json.

    Args:
        source: folder with shards; or one that holds train, val and test folders already (say,
            sampled from three level ranges): these are checked, and described in a manifest.
        out: folder for the three sets; not needed if source holds them already.
        val: share of the levels that goes to val.
        test: share of the levels that goes to test.
        ranges: level ranges instead of shares, e.g. train=0:800,val=800:900,test=900:1000.
        by: level; or episode, for footage whose levels nobody recorded (each its own level).
        frames_per_shard: size of one file.
        format: same as the source, array_record, npz or npy.
        skip_bad: go on past records that cannot be read, and count them.
    """
    folder = Path(source)
    if all((folder / name).is_dir() for name in SPLITS):
        if out is not None:
            raise WorkshopError(f"{folder} is split already: leave out --out to check it")
        return _describe(folder, by, skip_bad)
    shards = find_shards(folder)
    if out is None:
        raise WorkshopError(f"--out is needed: the folder for the three sets made from {folder}")
    target = Path(out)
    if any((target / name).exists() for name in (*SPLITS, MANIFEST)):
        raise WorkshopError(f"{target} holds a split already: delete it or use another folder")
    pieces = list(_pieces(shards, by, skip_bad))
    parts = (
        _parse_ranges(ranges)
        if ranges is not None
        else _ranges_by_share(sorted({piece.level for piece in pieces}), val, test)
    )
    check_ranges(parts)
    suffix = shard_suffix(shards[0]) if format == "same" else FORMATS[format]
    for name, (start, stop) in parts.items():
        mine = [piece for piece in pieces if start <= piece.level < stop]
        if not mine:
            raise WorkshopError(f"{name} would be empty: no recorded level is in {start}:{stop}")
        _copy(mine, target / name, suffix, frames_per_shard)
    settings = folder / SETTINGS_FILE
    return _describe(target, by, skip_bad=False, parts=parts, settings=settings)


def _pieces(shards: list[Path], by: str, skip_bad: bool) -> Iterator[Piece]:
    number = 0
    for path in shards:
        index = read_index(path, skip_bad=skip_bad)
        for record, length, seed in zip(
            index.records, index.lengths, index.level_seeds, strict=True
        ):
            if by == "level" and seed is None:
                raise WorkshopError(
                    f"{path}, record {record}: nobody recorded its level. `--by episode` splits "
                    f"by episode instead, which leaks where episodes share a level"
                )
            yield Piece(path, record, length, number if by == "episode" else int(seed or 0))
            number += 1


def _ranges_by_share(levels: list[int], val: float, test: float) -> dict[str, tuple[int, int]]:
    """Contiguous ranges with the given shares of the levels that were really played."""
    if not (0 < val < 1 and 0 < test < 1 and val + test < 1):
        raise WorkshopError(f"--val {val} and --test {test} must be shares that leave some train")
    if len(levels) < 3:
        raise WorkshopError(f"only {len(levels)} levels were played: three sets need 3 at least")
    train_end = min(max(1, round(len(levels) * (1 - val - test))), len(levels) - 2)
    val_end = min(max(train_end + 1, round(len(levels) * (1 - test))), len(levels) - 1)
    a, b, c, d = levels[0], levels[train_end], levels[val_end], levels[-1] + 1
    return {"train": (a, b), "val": (b, c), "test": (c, d)}


def _parse_ranges(text: str) -> dict[str, tuple[int, int]]:
    """ "train=0:8,val=8:9,test=9:10" to ranges by set."""
    parts = {}
    for item in text.split(","):
        name, _, levels = item.strip().partition("=")
        if name not in SPLITS:
            raise WorkshopError(f"bad --ranges part {item!r}: write train=A:B,val=C:D,test=E:F")
        parts[name] = parse_levels(levels)
    if set(parts) != set(SPLITS):
        raise WorkshopError(f"--ranges {text!r} must name train, val and test")
    return parts


def _copy(pieces: list[Piece], folder: Path, suffix: str, frames_per_shard: int) -> None:
    """Writes the pieces into shards of about `frames_per_shard` frames."""
    total = sum(piece.frames for piece in pieces)
    shard_count = max(1, round(total / frames_per_shard))
    ends = np.cumsum([piece.frames for piece in pieces])
    which = np.minimum((ends - 1) * shard_count // total, shard_count - 1)
    opened: dict[Path, Shard] = {}
    for k in range(shard_count):
        path = folder / f"{folder.name}-{k:05d}-of-{shard_count:05d}{suffix}"
        with ShardWriter(path) as writer:
            for number in np.flatnonzero(which == k):
                piece = pieces[number]
                if piece.shard not in opened:
                    opened[piece.shard] = open_shard(piece.shard)
                writer.write(opened[piece.shard].read(piece.record))
    for shard in opened.values():
        shard.close()


def shard_suffix(path: Path) -> str:
    """The part of a shard's name that says its format."""
    return next(suffix for suffix in FORMATS.values() if path.name.endswith(suffix))


def _describe(
    folder: Path,
    by: str,
    skip_bad: bool,
    parts: dict[str, tuple[int, int]] | None = None,
    settings: Path | None = None,
) -> dict[str, Any]:
    """Checks the three sets of a folder and writes its manifest."""
    shards = {name: find_shards(folder / name) for name in SPLITS}
    indexes = {
        name: [read_index(path, skip_bad=skip_bad) for path in paths]
        for name, paths in shards.items()
    }
    seeds = {
        name: [seed for index in group for seed in index.level_seeds]
        for name, group in indexes.items()
    }
    if by == "level":
        _check_levels(folder, seeds)
    if parts is None:
        parts = _level_ranges(folder, seeds, by)
        check_ranges(parts)
    encoded = _json_file(folder / ENCODING_FILE)  # by `workshop encode`
    sampled = {name: _json_file(settings or folder / name / SETTINGS_FILE) for name in SPLITS}
    manifest = {
        **{key: sampled["train"].get("settings", {}).get(key) for key in ("env", "look", "policy")},
        **{key: value for key, value in encoded.items() if key == KEY},
        "split_by": by,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "library_version": __version__,
        "splits": {
            name: {
                "levels": list(parts[name]),
                **_counts(indexes[name]),
                "sampling_command": sampled[name].get("command"),
                "shards": [
                    shard_entry(folder, path, index)
                    for path, index in zip(shards[name], indexes[name], strict=True)
                ],
            }
            for name in SPLITS
        },
    }
    write_manifest(folder, manifest)
    return manifest


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes manifest.json, whole or not at all."""
    partial = folder / f".{MANIFEST}.partial"
    partial.write_text(json.dumps(manifest, indent=2) + "\n")
    os.replace(partial, folder / MANIFEST)


def _check_levels(folder: Path, seeds: dict[str, list[int | None]]) -> None:
    for position, name in enumerate(SPLITS):
        if None in seeds[name]:
            raise WorkshopError(f"{folder / name}: nobody recorded the levels; use --by episode")
        for other in SPLITS[position + 1 :]:
            shared = sorted({int(seed or 0) for seed in set(seeds[name]) & set(seeds[other])})
            if shared:
                raise WorkshopError(
                    f"leaking split: {folder / name} and {folder / other} share {len(shared)} "
                    f"levels, e.g. {shared[0]}. Sample them from disjoint --levels"
                )


def _level_ranges(
    folder: Path, seeds: dict[str, list[int | None]], by: str
) -> dict[str, tuple[int, int]]:
    """Each set's range of levels as it was sampled, else as seen; or of episode numbers."""
    ends = np.cumsum([len(seeds[name]) for name in SPLITS])
    parts = {}
    for name, end in zip(SPLITS, ends.tolist(), strict=True):
        sampled = _json_file(folder / name / SETTINGS_FILE)
        if by == "episode":
            parts[name] = (end - len(seeds[name]), end)
        elif sampled:
            start, stop = sampled["settings"]["levels"]
            parts[name] = (int(start), int(stop))
        else:
            known = [int(seed or 0) for seed in seeds[name]]
            parts[name] = (min(known), max(known) + 1)
    return parts


def _json_file(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def _counts(indexes: list[ShardIndex]) -> dict[str, Any]:
    histogram = np.zeros(max(len(index.action_counts) for index in indexes), dtype=np.int64)
    for index in indexes:
        histogram[: len(index.action_counts)] += np.array(index.action_counts, dtype=np.int64)
    return {
        "level_count": len({seed for index in indexes for seed in index.level_seeds}),
        "episodes": sum(len(index.lengths) for index in indexes),
        "frames": sum(index.frames for index in indexes),
        "bad_records": sum(len(index.bad) for index in indexes),
        "action_histogram": histogram.tolist(),
    }


def shard_entry(folder: Path, path: Path, index: ShardIndex) -> dict[str, Any]:
    """What a manifest in `folder` says of the shard at `path`."""
    return {
        "file": path.relative_to(folder).as_posix(),
        "bytes": index.bytes,
        "sha256": file_sha256(path),
        "episodes": len(index.lengths),
        "frames": index.frames,
    }

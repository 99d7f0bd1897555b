"""Shards from one format to another: `workshop convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from workshop_lib.data.shards import FORMATS, find_shards, open_shard, read_index
from workshop_lib.data.writer import ShardWriter
from workshop_lib.errors import WorkshopError


def convert(
    source: str,
    out: str,
    to: Literal["array_record", "npz", "npy"] = "npy",
    skip_bad: bool = False,
) -> list[Path]:
    """Writes the episodes of some shards into shards of another format.

    Args:
        source: a shard, or a folder of shards.
        out: folder for the new shards.
        to: array_record (compressed, random access), npz (opens anywhere) or npy (uncompressed,
            memory-mapped: the quickest to read many times over).
        skip_bad: go on past records that cannot be read, and count them.
    """
    written = []
    for path in find_shards(source):
        stem = next(path.name[: -len(s)] for s in FORMATS.values() if path.name.endswith(s))
        target = Path(out) / (stem + FORMATS[to])
        if target.exists():
            raise WorkshopError(f"{target} exists already: delete it or use another folder")
        index, shard = read_index(path, skip_bad=skip_bad), open_shard(path)
        with ShardWriter(target) as writer:
            for number in index.records:
                writer.write(shard.read(number))
        shard.close()
        bad = f", {len(index.bad)} bad records left out" if index.bad else ""
        print(f"{target}: {len(index.records)} episodes, {index.frames} frames{bad}")
        written.append(target)
    return written

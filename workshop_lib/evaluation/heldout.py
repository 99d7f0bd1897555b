"""Held-out clips for measuring worlds: independent of each other, so that intervals are honest."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from workshop_lib.data.clip import Clip
from workshop_lib.data.clips import make_clip
from workshop_lib.data.episodes import Episode
from workshop_lib.data.shards import open_shard, read_index
from workshop_lib.data.splits import split_shards
from workshop_lib.errors import WorkshopError


def heldout_episodes(
    data: str | Path,
    split: str,
    clips: int,
    length: int,
    seed: int = 0,
    beginnings: bool = False,
) -> Clip:
    """One clip of `length` frames from each of `clips` different episodes, or of all there are.

    As many different levels as can be had; equal for equal seeds. beginnings: only the first
    frames of levels, not those of some later moment.

    Raises WorkshopError if fewer than two episodes are long enough, or actions are missing.
    """
    shards = split_shards(data, split)
    indexes = [read_index(path) for path in shards]
    places = [(k, record) for k, index in enumerate(indexes) for record in index.records]
    levels = [level for index in indexes for level in index.level_seeds]
    lengths = np.array([frames for index in indexes for frames in index.lengths])
    rng = np.random.default_rng(seed)
    usable = rng.permutation(np.flatnonzero(lengths >= length)).tolist()
    if len(usable) < 2:
        raise WorkshopError(
            f"{data}: {split} has {len(usable)} episodes of {length} frames or more, measuring "
            f"needs two at least: ask for a shorter horizon, or record more"
        )
    parts: list[tuple[Episode, int]] = []
    for row in _levels_first(usable, levels):
        if len(parts) == clips:
            break
        k, record = places[row]
        shard = open_shard(shards[k])
        try:
            episode = shard.read(record)
        finally:
            shard.close()
        if episode.actions is None:
            raise WorkshopError(f"{shards[k]}, record {record}: nobody recorded its actions")
        start = int(rng.integers(lengths[row] - length + 1))
        if not beginnings:
            parts.append((episode, start))
        elif episode.first is None or episode.first[0]:  # not the later part of a long one
            parts.append((episode, 0))
    if len(parts) < min(2, clips):
        raise WorkshopError(
            f"{data}: {split} has {len(parts)} episodes of {length} frames or more from the"
            f" beginning of their level, measuring needs two at least: record more"
        )
    return make_clip(parts, length)


def _levels_first(rows: list[int], levels: list[int | None]) -> list[int]:
    """The rows, each level's first one before any level's second one."""
    seen: Counter[int | None] = Counter()
    turns = []
    for row in rows:
        turns.append(seen[levels[row]])
        seen[levels[row]] += 1
    return [row for _, row in sorted(zip(turns, rows, strict=True), key=lambda pair: pair[0])]

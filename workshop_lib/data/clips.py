"""Fixed-length clips in batches, drawn from episodes of any length.

Everything about batch number n of an epoch (which clips, in which order, on which rank and
worker) is a pure function of (seed, epoch, n): any run can be resumed at the exact next batch, and
one process sees the same global batches as eight.

How the order comes about:

1. Every place where a clip of T frames fits into an episode is a start. The starts of all
   episodes, in shuffled order, lie in one line; clips are drawn from it at even distances with
   random offsets, so that each start is equally likely.
2. The line is cut into `lanes` of equal length. A rank owns whole lanes, so each episode is read
   by one rank only (but for the few that a cut goes through).
3. Within a lane, clips are shuffled over a window of some dozens of episodes. An episode is read
   once and its clips leave it over the next batches: about `clips_per_read` clips per read.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from workshop_lib.data.clip import Clip
from workshop_lib.data.episodes import Episode
from workshop_lib.data.index import ShardIndex
from workshop_lib.data.shards import Shard, open_shard, read_index
from workshop_lib.errors import WorkshopError

UNKNOWN_ACTION = UNKNOWN_ENDING = -1


@dataclass(frozen=True)
class ClipConfig:
    """length: T, frames in a clip.

    batch_size: clips in a global batch, all ranks together.
    clips_per_read: how many clips are drawn from an episode, on average, each time it is read.
    window: over how many episodes clips are shuffled, all lanes together.
    lanes: in how many parts the data is dealt out; a multiple of the number of ranks, and a
        divisor of batch_size.
    in_memory: keep every decoded episode: after the first epoch nothing is read again.
    shuffle: False gives the same clips in every epoch (for validation).
    """

    length: int = 32
    batch_size: int = 32
    clips_per_read: float = 8.0
    window: int = 128
    lanes: int = 8
    seed: int = 0
    in_memory: bool = False
    shuffle: bool = True
    skip_bad: bool = False

    def __post_init__(self) -> None:
        for name in ("length", "batch_size", "window", "lanes"):
            if getattr(self, name) < 1:
                raise WorkshopError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if self.clips_per_read <= 0:
            raise WorkshopError(f"clips_per_read must be above 0, got {self.clips_per_read}")
        if self.batch_size % self.lanes:
            raise WorkshopError(
                f"batch_size {self.batch_size} must be a multiple of lanes {self.lanes}"
            )


@dataclass(frozen=True)
class Plan:
    """The clips of one epoch in order: `episode[i]` is its row in the table, `start[i]` the frame
    at which the clip begins. Both int64 (M,)."""

    episode: np.ndarray
    start: np.ndarray


def plan_epoch(lengths: np.ndarray, config: ClipConfig, epoch: int) -> Plan:
    """Draws and orders the clips of an epoch; clip i belongs to lane i % lanes.

    lengths: int (E,), frames of each episode; those shorter than a clip give none.
    """
    rng = np.random.default_rng([config.seed, epoch if config.shuffle else 0])
    lanes = config.lanes
    starts = np.maximum(lengths - config.length + 1, 0)
    usable = np.flatnonzero(starts)
    if len(usable) == 0:
        raise WorkshopError(
            f"no episode is {config.length} frames long (the longest has {lengths.max()}): use "
            f"shorter clips or record longer episodes"
        )
    batches = max(1, int(len(usable) * config.clips_per_read) // config.batch_size)
    count = batches * config.batch_size
    order = rng.permutation(usable)
    ends = np.cumsum(starts[order])
    place = ((np.arange(count) + rng.random(count)) * ends[-1] / count).astype(np.int64)
    place = np.minimum(place, ends[-1] - 1)
    row = np.searchsorted(ends, place, side="right")
    start = place - (ends[row] - starts[order[row]])
    # Lane by lane: clip number plus a random delay of up to a window's worth of clips.
    per_lane = count // lanes
    delay = rng.random((lanes, per_lane)) * config.window / lanes * config.clips_per_read
    within = np.argsort(np.arange(per_lane) + delay, axis=1, kind="stable")
    shuffled = (within + np.arange(lanes)[:, None] * per_lane).T.reshape(-1)
    return Plan(order[row][shuffled], start[shuffled])


class ClipBatches(IterableDataset[Clip]):
    """Batches of clips from shards, from global batch number `start_batch` on: `batches` of them,
    or without end.

    Each item is this rank's part of a global batch: a Clip of batch_size / world_size clips.
    With several DataLoader workers each makes every W-th batch, so that batches arrive in order.
    Worker processes must be started by spawn (`loader` does).

    Raises WorkshopError if the ranks do not divide the lanes, or no episode is long enough.
    """

    def __init__(
        self,
        shards: list[Path],
        config: ClipConfig,
        rank: int = 0,
        world_size: int = 1,
        start_batch: int = 0,
        batches: int | None = None,
    ) -> None:
        super().__init__()
        if config.lanes % world_size or not 0 <= rank < world_size:
            raise WorkshopError(
                f"lanes {config.lanes} must be a multiple of the {world_size} ranks (rank {rank})"
            )
        self.shards, self.config = [Path(path) for path in shards], config
        self.rank, self.world_size = rank, world_size
        self.start_batch, self.batches = start_batch, batches
        self.indexes = [read_index(path, skip_bad=config.skip_bad) for path in self.shards]
        sizes = {(index.height, index.width) for index in self.indexes}
        if len(sizes) > 1:
            raise WorkshopError(f"shards with frames of different sizes {sizes} do not mix")
        grids = [index.token_grid for index in self.indexes]
        if any(grid != grids[0] for grid in grids):
            raise WorkshopError(
                f"{self.shards[0].parent}: shards with token grids {grids} do not mix; "
                f"`workshop encode` the whole folder with one tokenizer"
            )
        self.table = EpisodeTable(self.indexes)
        self.batches_per_epoch = self._plan(0).episode.size // config.batch_size

    def _plan(self, epoch: int) -> Plan:
        return plan_epoch(self.table.lengths, self.config, epoch)

    def __iter__(self) -> Iterator[Clip]:
        info = get_worker_info()
        worker, workers = (info.id, info.num_workers) if info is not None else (0, 1)
        if self.batches is None:
            return self._endless(worker, workers)
        return islice(self._endless(worker, workers), len(range(worker, self.batches, workers)))

    def _endless(self, worker: int, workers: int) -> Iterator[Clip]:
        episodes = EpisodeCache(self.shards, self.table, self.config.in_memory)
        batch = self.start_batch + worker
        try:
            while True:
                epoch, first = divmod(batch, self.batches_per_epoch)
                mine = self._mine(self._plan(epoch), first, workers)
                yield from episodes.clips(mine, self.config.length)
                batch += len(mine) * workers
        finally:
            episodes.close()

    def _mine(self, plan: Plan, first: int, workers: int) -> list[Plan]:
        """This rank's and worker's clips, from batch `first` of the epoch on, one Plan a batch."""
        # batch, clip within a lane, lane
        per_batch = (-1, self.config.batch_size // self.config.lanes, self.config.lanes)
        episode = plan.episode.reshape(per_batch)[first::workers, :, self.rank :: self.world_size]
        start = plan.start.reshape(per_batch)[first::workers, :, self.rank :: self.world_size]
        return [Plan(e.reshape(-1), s.reshape(-1)) for e, s in zip(episode, start, strict=True)]


def fixed_clips(
    shards: list[Path], config: ClipConfig, batches: int, rank: int = 0, world_size: int = 1
) -> ClipBatches:
    """The same `batches` batches every time, spread evenly over all episodes: for measuring.

    No clip comes twice unless there are fewer places for clips than clips.
    """
    table = EpisodeTable([read_index(path, skip_bad=config.skip_bad) for path in shards])
    usable = max(1, int((table.lengths >= config.length).sum()))
    # One epoch must be just long enough: the next one would be the same again.
    per_read = (batches + 0.5) * config.batch_size / usable
    config = replace(config, shuffle=False, clips_per_read=per_read)
    return ClipBatches(shards, config, rank, world_size, batches=batches)


class EpisodeTable:
    """All episodes of some shards in one numbering."""

    def __init__(self, indexes: list[ShardIndex]) -> None:
        self.lengths = np.array([n for index in indexes for n in index.lengths], dtype=np.int64)
        self.places = [(k, n) for k, index in enumerate(indexes) for n in index.records]


class EpisodeCache:
    """Reads each episode shortly before its first clip is due, and drops it after its last."""

    AHEAD = 16  # episodes read ahead by a thread, while this one copies clips

    def __init__(self, shards: list[Path], table: EpisodeTable, in_memory: bool) -> None:
        self._shards, self._table, self._in_memory = shards, table, in_memory
        self._open: dict[int, Shard] = {}
        self._kept: dict[int, Episode] = {}
        self._pool = ThreadPoolExecutor(1)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        for shard in self._open.values():
            shard.close()
        self._open.clear()

    def clips(self, batches: list[Plan], length: int) -> Iterator[Clip]:
        """The batches' clips, in order."""
        if not batches:
            return
        rows = np.concatenate([batch.episode for batch in batches])
        unique, first_use, uses = np.unique(rows, return_index=True, return_counts=True)
        to_read = iter(unique[np.argsort(first_use)].tolist())
        left = dict(zip(unique.tolist(), uses.tolist(), strict=True))
        ahead: dict[int, Any] = {}

        def read_ahead() -> None:
            for row in to_read:
                if row not in self._kept:
                    ahead[row] = self._pool.submit(self._read, row)
                if len(ahead) >= self.AHEAD:
                    return

        read_ahead()
        for batch in batches:
            parts = []
            for row, start in zip(batch.episode.tolist(), batch.start.tolist(), strict=True):
                if row not in self._kept:
                    self._kept[row] = ahead.pop(row).result()
                    read_ahead()
                parts.append((self._kept[row], start))
                left[row] -= 1
                if left[row] == 0 and not self._in_memory:
                    del self._kept[row]
            yield make_clip(parts, length)

    def _read(self, row: int) -> Episode:
        shard, record = self._table.places[row]
        if shard not in self._open:
            self._open[shard] = open_shard(self._shards[shard])
        return self._open[shard].read(record)


def make_clip(parts: list[tuple[Episode, int]], length: int) -> Clip:
    """A Clip of `length` frames from each (episode, start).

    Actions that nobody recorded are -1: a model that needs them fails at once. Tokens are None
    where the episodes have none, and so is what ended them where none of them says it.
    """
    shape = (len(parts), length, *parts[0][0].frames.shape[1:])
    frames = torch.empty(shape, dtype=torch.uint8)
    actions = torch.full(shape[:2], UNKNOWN_ACTION, dtype=torch.int64)
    first = torch.zeros(shape[:2], dtype=torch.bool)
    frames_array, actions_array, first_array = frames.numpy(), actions.numpy(), first.numpy()
    ending = None
    if any(episode.over is not None for episode, _ in parts):
        ending = torch.full(shape[:2], UNKNOWN_ENDING, dtype=torch.int64)
    encoded = parts[0][0].tokens
    tokens = None
    if encoded is not None:
        tokens = torch.empty(*shape[:2], *encoded.shape[1:], dtype=torch.int64)
    for b, (episode, start) in enumerate(parts):
        part = slice(start, start + length)
        frames_array[b] = episode.frames[part]
        if episode.actions is not None:
            actions_array[b] = episode.actions[part]
        if episode.first is not None:
            first_array[b] = episode.first[part]
        if tokens is not None and episode.tokens is not None:
            tokens.numpy()[b] = episode.tokens[part]
        if ending is not None and episode.over is not None:
            ending.numpy()[b] = _ending(episode, part)
    return Clip(frames, actions, first, tokens, ending)


def _ending(episode: Episode, part: slice) -> np.ndarray:
    """What each action of a part of the episode led to, as Clip.ending says."""
    assert episode.over is not None
    over = episode.over[part]
    if episode.reward is None:
        return np.where(over, UNKNOWN_ENDING, 0)
    return np.where(over, np.where(episode.reward[part] > 0, 1, 2), 0)

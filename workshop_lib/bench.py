"""How fast it is here: `workshop bench`.

The machine may be shared and noisy, so all figures of one table come from one run, and the last
column compares them with each other.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from workshop_lib.data.clips import ClipBatches, ClipConfig
from workshop_lib.data.convert import convert
from workshop_lib.data.game import Game, GameConfig, Look
from workshop_lib.data.policies import make_policy
from workshop_lib.data.sampling import sample
from workshop_lib.data.shards import find_shards

GAMES = 64


def bench(
    what: Literal["data"],
    look: Look = "hard",
    frames: int = 100_000,
    rounds: int = 3,
    out: str | None = None,
) -> None:
    """Measures speeds on this machine and prints them as a table.

    Args:
        what: data: simulator, recording, and loading of 32-frame clips.
        look: which CoinRun.
        frames: how many frames are played, recorded and loaded in each measurement.
        rounds: how often everything is measured; the best round counts.
        out: write the figures to this JSON file too.
    """
    with tempfile.TemporaryDirectory() as folder:
        figures = _bench_data(Path(folder), look, frames, rounds)
    for name, table in figures.items():
        base = next(iter(table.values()))
        width = max(len(row) for row in table)
        print(f"\n{name}, frames/s (best of {rounds})")
        for row, speed in table.items():
            print(f"  {row:<{width}}  {speed:>10,.0f}   {speed / base:5.2f}")
    if out is not None:
        Path(out).write_text(json.dumps(figures, indent=2) + "\n")


def _bench_data(folder: Path, look: Look, frames: int, rounds: int) -> dict[str, dict[str, float]]:
    playing: dict[str, Callable[[], object]] = {
        "simulator alone, 64 games": lambda: _play(look, frames, with_policy=False),
        "simulator and policy": lambda: _play(look, frames, with_policy=True),
        "workshop sample (played, packed, written)": lambda: sample(
            tempfile.mkdtemp(dir=folder), look=look, frames=frames, policy="mixed", progress=False
        ),
    }
    result = {"Recording": {name: _best(run, frames, rounds) for name, run in playing.items()}}

    sample(str(folder / "records"), look=look, frames=frames, policy="mixed", progress=False)
    records = find_shards(folder / "records")
    memmap = convert(str(records[0].parent), str(folder / "memmap"), to="npy")
    kept = ClipBatches(records, ClipConfig(in_memory=True))
    in_memory = iter(kept)  # one iterator throughout, so that later rounds find all in memory
    for _ in range(kept.batches_per_epoch):
        next(in_memory)
    batches = max(1, frames // (32 * 32))
    loading: dict[str, Callable[[], object]] = {
        "memmap .npy, one clip per read": lambda: _load(memmap, batches, clips_per_read=1),
        "records, one clip per read": lambda: _load(records, batches, clips_per_read=1),
        "records, 8 clips per read (default)": lambda: _load(records, batches),
        "records kept in memory": lambda: _take(in_memory, batches),
        "memmap .npy, 8 clips per read": lambda: _load(memmap, batches),
    }
    size = batches * 32 * 32
    result["Loading 32-frame clips, batches of 32"] = {
        name: _best(run, size, rounds) for name, run in loading.items()
    }
    return result


def _best(run: Callable[[], object], frames: int, rounds: int) -> float:
    speeds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        speeds.append(frames / (time.perf_counter() - start))
    return max(speeds)


def _play(look: Look, frames: int, with_policy: bool) -> None:
    with Game(GameConfig(look=look), GAMES) as game:
        policy = make_policy("mixed", GAMES, 0)
        actions = np.random.default_rng(0).integers(0, 15, (frames // GAMES, GAMES))
        for row in actions:
            observation = game.observe()
            if with_policy:
                row, _ = policy.choose(observation.first)
            game.act(row)


def _load(shards: list[Path], batches: int, clips_per_read: float = 8) -> None:
    _take(iter(ClipBatches(shards, ClipConfig(clips_per_read=clips_per_read))), batches)


def _take(clips: object, batches: int) -> None:
    for clip in islice(clips, batches):  # type: ignore[call-overload]
        clip.frames[0, 0, 0, 0, 0].item()

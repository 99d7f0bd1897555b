"""Plays many games at once and records the episodes: `workshop sample`."""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from workshop_lib import __version__
from workshop_lib.data.episodes import Episode
from workshop_lib.data.game import Backend, Game, GameConfig, Look
from workshop_lib.data.policies import PolicyName, make_policy
from workshop_lib.data.shards import FORMATS
from workshop_lib.data.writer import ShardWriter, default_format
from workshop_lib.errors import WorkshopError

SETTINGS_FILE = "sampling.json"
# All our models are trained, tuned and tested on these, so that their figures can be compared.
USUAL_LEVELS = {"train": (0, 100_000), "val": (100_000, 110_000), "test": (110_000, 120_000)}
Format = Literal["auto", "array_record", "npz", "npy"]


@dataclass(frozen=True)
class SamplingConfig:
    """All that decides what is recorded: equal settings give equal shards, frame by frame.

    frames: how many frames in all, at least; split into shards of `frames_per_shard`.
    max_frames: a longer stretch in one level goes on in a further episode.
    """

    env: str = "coinrun"
    look: Look = "easy"
    levels: tuple[int, int] = (0, 100_000)
    policy: PolicyName = "mixed"
    frames: int = 100_000
    frames_per_shard: int = 100_000
    games: int = 64
    max_frames: int = 160
    seed: int = 0
    backend: str = "auto"

    def __post_init__(self) -> None:
        for name in ("frames", "frames_per_shard", "games"):
            if getattr(self, name) < 1:
                raise WorkshopError(f"--{name} must be 1 or more, got {getattr(self, name)}")
        if self.max_frames < 2:
            raise WorkshopError(f"--max_frames must be 2 or more, got {self.max_frames}")

    @property
    def game(self) -> GameConfig:
        return GameConfig(self.env, self.look, self.levels)

    @property
    def shard_count(self) -> int:
        return math.ceil(self.frames / self.frames_per_shard)

    def shard_frames(self, shard: int) -> int:
        return min(self.frames_per_shard, self.frames - shard * self.frames_per_shard)


def sample(
    out: str,
    env: str = "coinrun",
    look: Look = "easy",
    levels: str = "train",
    policy: PolicyName = "mixed",
    frames: int = 100_000,
    frames_per_shard: int = 100_000,
    games: int | None = None,
    max_frames: int = 160,
    seed: int = 0,
    shard: str = "0/1",
    format: Format = "auto",
    backend: Backend = "auto",
    progress: bool = True,
) -> list[Path]:
    """Plays the real game and records episodes.

    May be interrupted at any time: finished shards stay, the same command goes on from there.

    Args:
        out: folder for the shards.
        env: coinrun, another Procgen game, or gymnasium:ID for any Gymnasium environment.
        look: mono (plain blocks), easy (one theme, no monsters) or hard (everything).
        levels: START:STOP, half open, or train (0:100000), val (100000:110000) or test
            (110000:120000); keep what you train and test on apart.
        policy: who plays: random, sticky, runner, mixed or control.
        frames: how many frames to record, all shards together.
        frames_per_shard: size of one file.
        games: how many games run at once; by default up to 64, fewer for small shards.
        max_frames: longer episodes go on in a further record.
        seed: equal seeds and settings give equal recordings.
        shard: I/N: this process makes every N-th file, from the I-th on (for clusters).
        format: array_record, npz or npy; auto takes the best that this machine can write.
        backend: procgen or envpool; auto takes what is installed.
        progress: show a progress bar with frames per second and time left.
    """
    config = SamplingConfig(
        env=env,
        look=look,
        levels=parse_levels(levels),
        policy=policy,
        frames=frames,
        frames_per_shard=frames_per_shard,
        games=games or max(1, min(64, min(frames, frames_per_shard) // 1000)),
        max_frames=max_frames,
        seed=seed,
        backend=backend,
    )
    suffix = FORMATS[default_format() if format == "auto" else format]
    mine = _my_shards(shard, config.shard_count)
    folder = Path(out)
    _remember_settings(folder, config)
    name = env.split(":")[-1].replace("/", "-")
    paths = [folder / f"{name}-{k:05d}-of-{config.shard_count:05d}{suffix}" for k in mine]
    with _progress_bar(sum(config.shard_frames(k) for k in mine), progress) as bar:
        for k, path in zip(mine, paths, strict=True):
            if path.exists():
                bar.update(config.shard_frames(k))
            else:
                record_shard(path, config, k, on_frames=bar.update)
    return paths


def record_shard(
    path: Path, config: SamplingConfig, shard: int, on_frames: Callable[[int], Any] = lambda n: None
) -> None:
    """Records shard number `shard`: a pure function of (config, shard), written atomically."""
    game_seed, policy_seed = np.random.SeedSequence([config.seed, shard]).spawn(2)
    seed = int(game_seed.generate_state(1)[0])
    backend: Any = config.backend
    with Game(config.game, config.games, seed=seed, backend=backend) as game:
        policy = make_policy(config.policy, config.games, policy_seed, game.num_actions)
        episodes = record_episodes(game, policy, config.shard_frames(shard), config.max_frames)
        with ShardWriter(path) as writer, ThreadPoolExecutor(1) as pool:
            pending: list[Future[None]] = []
            for episode in episodes:
                # Packing and compressing in a thread of its own: the games play on meanwhile.
                pending.append(pool.submit(writer.write, episode))
                if len(pending) > 16:
                    pending.pop(0).result()
                on_frames(len(episode))
            for future in pending:
                future.result()


def record_episodes(game: Game, policy: Any, frames: int, max_frames: int) -> Iterator[Episode]:
    """Episodes as they end, until `frames` frames are recorded; the rest come out cut short.

    A stretch of a single frame holds no transition and is dropped.
    """
    count = game.count
    observation = game.observe()
    shape = (count, max_frames, *observation.frames.shape[1:])
    video = np.zeros(shape, dtype=np.uint8)
    actions = np.zeros((count, max_frames), dtype=np.int32)
    first = np.zeros((count, max_frames), dtype=bool)
    reward = np.zeros((count, max_frames), dtype=np.float32)
    over = np.zeros((count, max_frames), dtype=bool)
    length = np.zeros(count, dtype=np.int64)
    seeds = game.level_seeds()
    everyone = np.arange(count)
    recorded = 0

    def cut(n: int) -> Iterator[Episode]:
        """Game n's stretch as an episode, and an empty buffer."""
        nonlocal recorded
        t, length[n] = int(length[n]), 0
        if t > 1:
            recorded += t
            yield Episode(
                video[n, :t].copy(),
                actions[n, :t].copy(),
                first[n, :t].copy(),
                reward[n, :t].copy(),
                int(seeds[n]),
                over=over[n, :t].copy(),
            )

    while recorded + int(length.sum()) < frames:
        for n in np.flatnonzero(observation.first | (length == max_frames)):
            yield from cut(n)
        if observation.first.any():
            seeds = game.level_seeds()
        video[everyone, length] = observation.frames
        first[everyone, length] = observation.first
        chosen, reset = policy.choose(observation.first)
        actions[everyone, length] = chosen
        length += 1
        game.act(chosen, reset)
        observation = game.observe()
        reward[everyone, length - 1] = observation.reward
        over[everyone, length - 1] = observation.first & ~reset
    for n in range(count):
        yield from cut(n)


def parse_levels(levels: str) -> tuple[int, int]:
    """ "START:STOP" to two numbers; "train", "val" and "test" stand for the usual ranges.

    Raises WorkshopError for anything else.
    """
    if levels in USUAL_LEVELS:
        return USUAL_LEVELS[levels]
    try:
        start, stop = (int(part) for part in levels.split(":"))
    except ValueError:
        raise WorkshopError(
            f"bad level range {levels!r}: write START:STOP, e.g. 0:1000, or train, val or test"
        ) from None
    return start, stop


def _my_shards(shard: str, shard_count: int) -> list[int]:
    """ "I/N": the numbers of the shards that this process makes."""
    try:
        number, total = (int(part) for part in shard.split("/"))
    except ValueError:
        number, total = -1, 0
    if not 0 <= number < total:
        raise WorkshopError(f"bad --shard {shard!r}: write I/N with 0 <= I < N, e.g. 0/4")
    return list(range(number, shard_count, total))


def _remember_settings(folder: Path, config: SamplingConfig) -> None:
    """Writes the settings beside the shards, or refuses to mix in shards of other settings."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SETTINGS_FILE
    settings = json.loads(json.dumps(asdict(config)))
    if path.exists():
        known = json.loads(path.read_text())["settings"]
        differing = [key for key in settings if settings[key] != known.get(key)]
        if differing:
            key = differing[0]
            raise WorkshopError(
                f"{folder} holds a recording with {key}={known.get(key)}, not {settings[key]}: "
                f"use another folder, or the same settings to go on"
            )
        return
    content = {
        "settings": settings,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "library_version": __version__,
    }
    partial = folder / f".{SETTINGS_FILE}.{os.getpid()}.partial"
    partial.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(partial, path)


def _progress_bar(total: int, show: bool) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=total, unit="frame", unit_scale=True, disable=not show, smoothing=0.1)

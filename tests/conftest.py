"""What several tests share: real recordings, and the game where it can be had."""

from __future__ import annotations

import os
from pathlib import Path

# Test processes side by side, each with threads for every core, slow each other down many times
# over: one thread each (and in the processes that they start).
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch

from workshop_lib.data.episodes import Episode
from workshop_lib.data.game import available_backends
from workshop_lib.data.sampling import sample
from workshop_lib.data.splitting import split

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
REPOSITORY = Path(__file__).parent.parent
SAMPLE = REPOSITORY / "data" / "sample"


@pytest.fixture(scope="session")
def procgen() -> None:
    """Asks for the procgen simulator."""
    if "procgen" not in available_backends():
        pytest.skip("procgen has no wheel for this machine (Linux x86-64, Python 3.10 to 3.12)")


@pytest.fixture(scope="session")
def recording(procgen: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two freshly sampled shards of easy CoinRun, 12,000 frames."""
    folder = tmp_path_factory.mktemp("recording")
    sample(
        str(folder), levels="0:300", frames=12_000, frames_per_shard=6_000, games=8, progress=False
    )
    return folder


@pytest.fixture(scope="session")
def dataset(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recording, split by level."""
    folder = tmp_path_factory.mktemp("dataset") / "split"
    split(str(recording), out=str(folder))
    return folder


def numbered_episodes(lengths: list[int], size: int = 8, first_level: int = 0) -> list[Episode]:
    """Made-up episodes whose every frame says where it comes from.

    Pixel (0, 0) of a frame holds (episode, t // 256, t % 256), and its action is t % 15.
    """
    episodes = []
    for number, length in enumerate(lengths):
        frames = np.zeros((length, size, size, 3), dtype=np.uint8)
        time = np.arange(length)
        frames[:, 0, 0] = np.stack([np.full(length, number), time // 256, time % 256], axis=1)
        first = time == 0
        episodes.append(
            Episode(
                frames,
                (time % 15).astype(np.int32),
                first,
                first.astype(np.float32),
                first_level + number,
            )
        )
    return episodes

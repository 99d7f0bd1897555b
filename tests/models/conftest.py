"""What tests of several models share."""

from __future__ import annotations

import pytest

from tests.conftest import SAMPLE
from workshop_lib.data.clip import Clip
from workshop_lib.data.clips import ClipBatches, ClipConfig
from workshop_lib.data.splits import split_shards


@pytest.fixture(scope="module")
def clip() -> Clip:
    """Two real clips of 6 frames."""
    shards = split_shards(SAMPLE / "easy", "train")
    return next(iter(ClipBatches(shards, ClipConfig(length=6, batch_size=2, lanes=2))))

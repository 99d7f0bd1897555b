"""Moments of the real game, collected once for all tests here."""

import pytest

from workshop_lib.evaluation.starts import collect_starts


@pytest.fixture(scope="session")
def starts(procgen):
    return collect_starts(24, "easy", seed=3)

"""What the tests of play share: real worlds, and a prompt in the middle of a recorded level."""

import pytest

from tests.conftest import REPOSITORY, SAMPLE
from workshop_lib.play.prompts import recorded_prompt
from workshop_lib.worlds.opening import open_world

TINY = REPOSITORY / "data" / "pretrained" / "dynamics-tiny.safetensors"


@pytest.fixture(scope="session")
def tiny():
    """The shipped world of tokens."""
    return open_world(TINY)


@pytest.fixture(scope="session")
def prompt():
    """Running, with free ground to both sides."""
    return recorded_prompt(SAMPLE / "easy", "test", episode=7, start=70)

"""A small model of the tests' own, its registry, and an empty cache."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from workshop_lib.data.splits import file_sha256
from workshop_lib.models.files import save_model
from workshop_lib.models.next_frame import NextFrame, NextFrameConfig
from workshop_lib.pretrained import download, registry
from workshop_lib.pretrained.registry import Entry, Training, write_entry


def make_entry(path: Path, name: str, **changes: object) -> Entry:
    """The entry of a file with a next-frame model."""
    values: dict[str, object] = {
        "name": name,
        "family": "next_frame",
        "recipe": "next_frame/tiny",
        "env": "coinrun",
        "look": "easy",
        "parameters": 1,
        "dtype": "float32",
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": file_sha256(path),
        "license": "MIT",
        "training": Training(summary="none", commands=("true",)),
    }
    return Entry(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an own registry, checkout and cache, all empty; no mirrors, no waiting."""
    monkeypatch.setattr(registry, "REGISTRY", tmp_path / "registry")
    monkeypatch.setattr(registry, "CHECKOUT", tmp_path / "checkout")
    monkeypatch.setattr(download, "PAUSE", 0.01)
    monkeypatch.setenv("WORKSHOP_CACHE", str(tmp_path / "cache"))
    for name in ("WORKSHOP_MIRRORS", "WORKSHOP_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "checkout").mkdir()
    return tmp_path


@pytest.fixture
def served(home: Path) -> Path:
    """A folder for a mirror, with a model's file."""
    torch.manual_seed(0)
    folder = home / "served"
    save_model(NextFrame(NextFrameConfig()), "next_frame", folder / "toy.safetensors", {})
    return folder


@pytest.fixture
def toy(home: Path, served: Path) -> Entry:
    """That model's entry, in the registry."""
    entry = make_entry(served / "toy.safetensors", "toy")
    write_entry(home / "registry", entry)
    return entry

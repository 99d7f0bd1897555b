"""Train, validation and test sets that share no level: reading them, and what they must hold to.

Two frames of one level look alike, so a random split of clips leaks: the model has seen the
test's walls. We split levels instead (splitting.py): each set owns a range of level seeds.
"""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

from workshop_lib.errors import WorkshopError

SPLITS = ("train", "val", "test")
MANIFEST = "manifest.json"


def check_ranges(parts: dict[str, tuple[int, int]]) -> None:
    """Refuses level ranges that share a level.

    Raises WorkshopError naming the two sets and a level that leaks.
    """
    ordered = sorted(parts.items(), key=lambda item: item[1])
    for name, (start, stop) in ordered:
        if start >= stop:
            raise WorkshopError(f"{name} has an empty level range {start}:{stop}")
    for (name, (_, stop)), (other, (start, _)) in pairwise(ordered):
        if start < stop:
            raise WorkshopError(
                f"leaking split: {name} and {other} both claim level {start}; a model tested on "
                f"levels that it was trained on looks better than it is. Use disjoint ranges"
            )


def load_manifest(folder: str | Path, verify: bool = False) -> dict[str, Any]:
    """The manifest of a split folder, refused if its sets share levels or a file is missing.

    verify: also compare each file's SHA-256 (reads all of it).

    Raises WorkshopError naming the folder or the file.
    """
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        splits = manifest["splits"]
        check_ranges({name: tuple(part["levels"]) for name, part in splits.items()})
        files = [(folder / shard["file"], shard) for p in splits.values() for shard in p["shards"]]
    except FileNotFoundError:
        raise WorkshopError(f"{folder}: no {MANIFEST}; `workshop split` makes it") from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise WorkshopError(f"{path}: not a manifest ({error!r}); run `workshop split`") from error
    for file, shard in files:
        if not file.is_file() or file.stat().st_size != shard["bytes"]:
            raise WorkshopError(f"{file}: missing, or not {shard['bytes']} bytes as {path} says")
        if verify and file_sha256(file) != shard["sha256"]:
            raise WorkshopError(f"{file}: its SHA-256 is not the one in {path}; it has changed")
    return manifest


def split_shards(folder: str | Path, name: str) -> list[Path]:
    """The shards of one set of a split folder, after the manifest has been checked."""
    manifest = load_manifest(folder)
    if name not in manifest["splits"]:
        raise WorkshopError(f"{folder}: no set {name!r}; it has {', '.join(manifest['splits'])}")
    return [Path(folder) / shard["file"] for shard in manifest["splits"][name]["shards"]]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()

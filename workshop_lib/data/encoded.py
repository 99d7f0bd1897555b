"""Which tokenizer a dataset's tokens come from, and whether it is the one that a model knows.

Tokens are numbers of codes: to a model that learned on another tokenizer's they mean nothing, and
nothing fails; its pictures are noise. So the tokenizer is written into the manifest of a dataset
that `workshop encode` made, from there into every model trained on it, and compared when used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workshop_lib.data.splits import MANIFEST, file_sha256, load_manifest
from workshop_lib.errors import WorkshopError

KEY = "tokenizer"  # in a manifest, and in the metadata of a model's file
REPEATER = "repeater"  # in the latter, for a world of pixels whose dreams pass through a tokenizer
ENCODING_FILE = "encoding.json"  # beside the manifest: what `workshop encode` was asked to do


def tokenizer_entry(file: str | Path, num_codes: int, grid: tuple[int, int]) -> dict[str, Any]:
    """What a manifest says of the tokenizer. grid: (h, w), tokens down and across a frame."""
    path = Path(file)
    return {
        "file": path.name,
        "sha256": file_sha256(path),
        "num_codes": num_codes,
        "grid": list(grid),
    }


def tokenizer_note(data: str | Path) -> dict[str, str]:
    """For the metadata of a model's file: the tokenizer of the split folder that it trained on.

    Empty for data without tokens, and where there is no such folder.
    """
    if not (Path(data) / MANIFEST).is_file():
        return {}
    entry = load_manifest(data).get(KEY)
    return {} if entry is None else {KEY: json.dumps(entry)}


def check_tokenizer(metadata: Mapping[str, str], tokenizer_file: str | Path) -> None:
    """Refuses a tokenizer other than the one whose tokens a model was trained on.

    metadata: of the model's file (models.files.read_metadata). One that names no tokenizer comes
    from a model whose data did not name it, and is let through.

    Raises WorkshopError naming both tokenizers.
    """
    entry = json.loads(metadata.get(KEY, "null"))
    if entry is None:
        return
    found = file_sha256(Path(tokenizer_file))
    if found != entry["sha256"]:
        raise WorkshopError(
            f"{tokenizer_file} (SHA-256 {found[:12]}...) is not the tokenizer that the model was "
            f"trained on: {entry['file']} (SHA-256 {entry['sha256'][:12]}..., "
            f"{entry['num_codes']} codes); give that one"
        )


def tokenizer_beside(
    model_file: str | Path, metadata: Mapping[str, str], key: str = KEY
) -> Path | None:
    """The tokenizer that a model was trained on, or (REPEATER) dreams through, if its file lies in
    the model's folder."""
    entry = json.loads(metadata.get(key, "null"))
    if entry is None:
        return None
    path = Path(model_file).parent / entry["file"]
    return path if path.is_file() and file_sha256(path) == entry["sha256"] else None

"""From a model's name to its file, and to the model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from workshop_lib.data.splits import file_sha256
from workshop_lib.errors import WorkshopError
from workshop_lib.pretrained import registry
from workshop_lib.pretrained.download import allowed, download, find_mirrors, is_offline, read_text
from workshop_lib.pretrained.registry import Entry, cache_folder, entry_needed, get_entry, names

if TYPE_CHECKING:
    import torch
    from torch import nn


def load_pretrained(name: str, device: str | torch.device = "cpu") -> nn.Module:
    """The trained model of this name (`workshop pretrained list`), in float32, evaluation mode.

    Looked for in data/pretrained, in the user's cache, and on the mirrors.

    Raises WorkshopError for an unknown name, and for a file that is damaged or not to be had.
    """
    from workshop_lib.models.files import load_model

    return load_model(find(get_entry(name)), device)


def find_file(model: str | Path) -> Path:
    """The file that is meant: a path as it is, or that of the pretrained model of this name.

    Raises WorkshopError for a name that is neither, and if the model is not to be had.
    """
    path = Path(model)
    is_path = path.suffix or len(path.parts) > 1 or path.is_file()
    if is_path or not registry.NAME.fullmatch(str(model)):
        return path
    return find(get_entry(str(model)))


def find_needed(metadata: Mapping[str, str], part: str) -> Path | None:
    """The file of the registry's model that another needs, if there is one.

    metadata: of the other's file. part: "tokenizer", "repeater", "lam" or "mean".
    """
    entry = entry_needed(metadata, part)
    return None if entry is None else find(entry)


def find(entry: Entry, progress: bool = True) -> Path:
    """A model's whole file: in the checkout, in the cache, else downloaded into the cache. A file
    with a part of it (models/shared.py) comes along.

    Raises WorkshopError if the checkout's file is another one, or none can be had.
    """
    from workshop_lib.models.files import read_metadata

    path = here(entry)
    path = path if path is not None else pull(entry, progress=progress)
    part = entry_needed(read_metadata(path), "mean")
    if part is not None and not path.with_name(part.file).is_file():
        pull(part, folder=path.parent, progress=progress)
    return path


def here(entry: Entry) -> Path | None:
    """A model's file if it is on this machine. A damaged one in the cache does not count.

    Raises WorkshopError if the checkout has a file of that name which is another one.
    """
    ours = registry.CHECKOUT / entry.file
    if ours.is_file():
        if is_whole(ours, entry):
            return ours
        raise WorkshopError(
            f"{ours}: damaged or changed, it is not the file that the registry knows; `git "
            f"checkout -- {_short(ours)}` brings it back, `workshop pretrained add` registers it"
        )
    cached = cache_folder() / entry.file
    return cached if cached.is_file() and is_whole(cached, entry) else None


def pull(
    entry: Entry,
    mirrors: list[str] | None = None,
    folder: Path | None = None,
    progress: bool = True,
) -> Path:
    """Downloads a model's file into a folder, by default the cache, and checks it.

    mirrors: by default those of $WORKSHOP_MIRRORS or data/pretrained/mirrors.txt.

    Raises WorkshopError offline, without mirrors, and if no mirror has the right file.
    """
    mirrors = allowed(find_mirrors() if mirrors is None else mirrors)
    command = f"`workshop pretrained pull {entry.name}`"
    if is_offline() and not mirrors:
        raise WorkshopError(
            f"{entry.name} is not on this machine and WORKSHOP_OFFLINE is set: unset it and run "
            f"{command}"
        )
    if not mirrors:
        raise WorkshopError(
            f"{entry.name} is not on this machine and no mirror is known: set WORKSHOP_MIRRORS to "
            f"a web address, a Hub repository (OWNER/NAME) or a folder, and run {command}"
        )
    return download(entry, folder or cache_folder(), mirrors, progress)


def pull_entry(name: str, mirrors: list[str]) -> Entry:
    """The entry of a model that the registry does not know, from the first mirror that has one.

    It is kept in the cache.

    Raises WorkshopError if none has it.
    """
    registry.check_name(name)
    for mirror in allowed(mirrors):
        text = read_text(mirror, f"{name}.json")
        if text is not None:
            entry = registry.parse_entry(text, f"{name}.json of {mirror}")
            if entry.name != name:
                raise WorkshopError(f"{name}.json of {mirror} is of a model named {entry.name!r}")
            registry.write_entry(cache_folder(), entry)
            return entry
    raise WorkshopError(
        f"no pretrained model is named {name!r}: there are {', '.join(names())}, and "
        f"{'no mirror has another' if mirrors else 'no mirror is known (WORKSHOP_MIRRORS)'}"
    )


def is_whole(path: Path, entry: Entry) -> bool:
    """Whether a file is, byte for byte, the one that the registry knows."""
    return path.stat().st_size == entry.bytes and file_sha256(path) == entry.sha256


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)

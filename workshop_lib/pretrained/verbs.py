"""`workshop pretrained list`, `pull`, `verify` and `publish`."""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from workshop_lib.errors import WorkshopError
from workshop_lib.pretrained import registry
from workshop_lib.pretrained.cards import cards_page
from workshop_lib.pretrained.download import find_mirrors
from workshop_lib.pretrained.finding import find, here, is_whole, pull_entry
from workshop_lib.pretrained.finding import pull as pull_file
from workshop_lib.pretrained.registry import (
    Entry,
    cache_folder,
    is_known,
    read_entries,
    with_needs,
    write_entry,
)


def list_models() -> None:
    """Lists the trained models: what they are, and where their files lie on this machine."""
    rows = [("name", "family", "levels", "parameters", "MB", "file")]
    for entry in _all():
        rows.append(
            (
                entry.name,
                entry.family,
                entry.look,
                f"{entry.parameters / 1e6:.1f} M",
                f"{entry.bytes / 1e6:.1f}",
                _where(entry),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())


def pull(names: str, mirror: str | None = None, progress: bool = True) -> None:
    """Downloads trained models that are not on this machine, with all that they need.

    A name that the registry does not know is looked for on the mirrors.

    Args:
        names: one name or several, separated by commas; or all.
        mirror: a web address, a repository of the Hugging Face Hub (OWNER/NAME), or a folder; by
            default those that WORKSHOP_MIRRORS names, or data/pretrained/mirrors.txt.
        progress: show a bar.
    """
    mirrors = find_mirrors() if mirror is None else [mirror]
    _learn(_split(names), mirrors)
    for entry in with_needs(_split(names)):
        path = here(entry) or pull_file(entry, mirrors, progress=progress)
        print(f"{entry.name}: {path}")


def verify(names: str = "all") -> int:
    """Compares the files of trained models with the registry's sizes and SHA-256, and opens them.

    Args:
        names: one name or several, separated by commas; or all: those that are on this machine.
    """
    asked, bad = _split(names), 0
    for entry in _all() if asked == ["all"] else with_needs(asked):
        verdict = _verdict(entry)
        print(f"{entry.name}: {verdict}")
        bad += not verdict.startswith("right") and (asked != ["all"] or "not on" not in verdict)
    return int(bad > 0)


def publish(
    names: str, folder: str | None = None, hub: str | None = None, private: bool = False
) -> None:
    """Writes trained models, with all that they need, their entries and cards where `pull` finds
    them: a folder that any web server can serve, or a repository of the Hugging Face Hub.

    For the Hub, log in first: `hf auth login`. What is there already stays.

    Args:
        names: one name or several, separated by commas; or all. `workshop pretrained add` names
            your own.
        folder: the folder of the mirror.
        hub: the repository of the Hub, OWNER/NAME; made if it is not there.
        private: whether a new repository is for you alone.
    """
    if (folder is None) == (hub is None):
        raise WorkshopError("publish where? give --folder FOLDER or --hub OWNER/NAME")
    entries = with_needs(_split(names))
    if folder is not None:
        write_mirror(entries, Path(folder))
        print(
            f"{folder}: {', '.join(entry.name for entry in entries)}; serve it with any web server"
        )
    elif hub is not None:
        _to_hub(entries, hub, private)


def write_mirror(entries: list[Entry], folder: Path) -> None:
    """Files, entries, and one page with the cards of all that lie there."""
    for entry in entries:
        source, target = find(entry), folder / entry.file
        folder.mkdir(parents=True, exist_ok=True)
        if not target.is_file() or not is_whole(target, entry):
            partial = folder / f".{entry.file}.partial"
            shutil.copyfile(source, partial)
            partial.replace(target)
        write_entry(folder, entry)
    there = read_entries(folder)
    # What the Hub reads of a page; others show it as text.
    head = "".join(f"---\nlicense: {each}\n---\n\n" for each in _license(there))
    (folder / "README.md").write_text(head + cards_page(there), encoding="utf-8")


def _to_hub(entries: list[Entry], repository: str, private: bool) -> None:
    import huggingface_hub as hub

    try:
        url = hub.create_repo(repository, private=private, exist_ok=True)
        with TemporaryDirectory() as scratch:
            # The entries of what is there already, for the page of all cards.
            hub.snapshot_download(repository, allow_patterns="*.json", local_dir=scratch)
            write_mirror(entries, Path(scratch))
            hub.upload_folder(
                repo_id=repository,
                folder_path=scratch,
                ignore_patterns=[".cache/**"],
                commit_message=f"Add {', '.join(entry.name for entry in entries)}",
            )
    # Which exceptions mean what differs between releases of the hub's client.
    except Exception as error:
        if isinstance(error, WorkshopError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise WorkshopError(
            f"{repository}: the Hub did not take it ({type(error).__name__}: {reason}); check the "
            f"network and `hf auth login`"
        ) from error
    print(f"{url}: {', '.join(entry.name for entry in entries)}")


def _learn(names: list[str], mirrors: list[str]) -> None:
    """Fetches the entries that are not known here, and those of what they need."""
    for name in names:
        if name != "all" and not is_known(name):
            _learn(list(pull_entry(name, mirrors).needs), mirrors)


def _verdict(entry: Entry) -> str:
    from workshop_lib.models.files import load_model

    places = [registry.CHECKOUT / entry.file, cache_folder() / entry.file]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return f"not on this machine; `workshop pretrained pull {entry.name}`"
    if not is_whole(path, entry):
        return f"WRONG: {path} is not the file that the registry knows; delete it and pull it again"
    load_model(path)
    return f"right ({path})"


def _where(entry: Entry) -> str:
    try:
        return str(here(entry) or "not here")
    except WorkshopError:
        return "damaged"


def _all() -> list[Entry]:
    """Of the registry, and of the cache what the registry does not know."""
    ours = read_entries(registry.REGISTRY)
    known = {entry.name for entry in ours}
    return ours + [entry for entry in read_entries(cache_folder()) if entry.name not in known]


def _license(entries: list[Entry]) -> list[str]:
    """The one license of all of them, as the Hub writes it; none if they have several."""
    found = sorted({entry.license.lower() for entry in entries})
    return found if len(found) == 1 else []


def _split(names: str) -> list[str]:
    """Raises WorkshopError if there is no name."""
    found = [name.strip() for name in names.split(",") if name.strip()]
    for name in found:
        if name != "all" and not is_known(name):
            registry.check_name(name)
    if not found:
        raise WorkshopError("give the name of a model, or all; `workshop pretrained list`")
    return found

"""One file from the first mirror that has it: goes on where it broke off, and checks the bytes.

A mirror is the address of a web folder, a repository of the Hugging Face Hub (OWNER/NAME), or a
folder of this machine (a USB stick, say). None is built in.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workshop_lib.data.splits import file_sha256
from workshop_lib.errors import WorkshopError
from workshop_lib.pretrained import registry
from workshop_lib.pretrained.registry import Entry

if TYPE_CHECKING:
    from requests import Response
    from tqdm import tqdm

MIRRORS_VARIABLE, OFFLINE_VARIABLE = "WORKSHOP_MIRRORS", "WORKSHOP_OFFLINE"
MIRRORS_FILE = "mirrors.txt"  # in data/pretrained: one mirror a line
TRIES = 4  # in a row that bring less than STEADY bytes, before the next mirror is asked
STEADY = 1 << 16
PAUSE = 0.5  # seconds before the second try; twice as long before each further one
TIMEOUT = (10.0, 30.0)  # seconds: to connect, and between two pieces
PASSING = (408, 425, 429, 500, 502, 503, 504)  # states of a server that may soon be better
MOST_TEXT = 1 << 20  # bytes of an entry


class MirrorFailed(Exception):
    """Why a mirror is of no use, in a few words."""


def find_mirrors() -> list[str]:
    """Those of $WORKSHOP_MIRRORS (separated by spaces or commas), else of the mirrors.txt."""
    named = os.environ.get(MIRRORS_VARIABLE)
    path = registry.CHECKOUT / MIRRORS_FILE
    if named is not None:
        return [mirror for mirror in re.split(r"[\s,]+", named) if mirror]
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [line for line in (line.partition("#")[0].strip() for line in lines) if line]


def is_offline() -> bool:
    """Whether $WORKSHOP_OFFLINE (or the Hub's own HF_HUB_OFFLINE) forbids to use the network."""
    given = [os.environ.get(name, "") for name in (OFFLINE_VARIABLE, "HF_HUB_OFFLINE")]
    return any(value.lower() not in ("", "0", "false", "no") for value in given)


def allowed(mirrors: list[str]) -> list[str]:
    """Of these mirrors the folders, where the network is forbidden; else all."""
    return [mirror for mirror in mirrors if not is_offline() or Path(mirror).is_dir()]


def download(entry: Entry, folder: Path, mirrors: list[str], progress: bool = True) -> Path:
    """The file in this folder, which appears there when it is whole and its SHA-256 is right.

    What a broken-off download has brought is kept beside it and used the next time. Of several
    processes that ask for the same file, one downloads and the others wait.

    Raises WorkshopError saying what each mirror answered, if none has it.
    """
    from filelock import FileLock

    target, partial = folder / entry.file, folder / f".{entry.file}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{entry.file}.lock"):
            if target.is_file() and file_sha256(target) == entry.sha256:
                return target
            failures = []
            for mirror in mirrors:
                try:
                    _from_mirror(mirror, entry, partial, progress)
                except MirrorFailed as failure:
                    failures.append(f"{mirror}: {failure}")
                else:
                    partial.replace(target)
                    return target
    except OSError as error:
        raise WorkshopError(
            f"{folder}: cannot be written ({error.strerror or error}); set "
            f"{registry.CACHE_VARIABLE} to another folder"
        ) from error
    raise WorkshopError(
        f"{entry.name} could not be downloaded ({'; '.join(failures)}); try again with "
        f"`workshop pretrained pull {entry.name}`, or name another mirror in {MIRRORS_VARIABLE}"
    )


def read_text(mirror: str, file: str) -> str | None:
    """A small text file of a mirror; None if it has none, or cannot be asked."""
    import requests

    if (Path(mirror) / file).is_file():
        return (Path(mirror) / file).read_text(encoding="utf-8")
    try:
        url, headers = address(mirror, file)
        with requests.get(url, headers=headers, timeout=TIMEOUT, stream=True) as answer:
            if answer.status_code != 200:
                return None
            return next(answer.iter_content(MOST_TEXT), b"").decode("utf-8")
    except (requests.RequestException, MirrorFailed, UnicodeDecodeError):
        return None


def address(mirror: str, file: str) -> tuple[str, dict[str, str]]:
    """Where a mirror's file lies on the web, and what to send along.

    Raises MirrorFailed for a mirror that is neither a web address nor a repository of the Hub.
    """
    # Compressed on the way, bytes could not be counted.
    plain = {"Accept-Encoding": "identity"}
    if mirror.startswith(("http://", "https://")):
        return f"{mirror.rstrip('/')}/{file}", plain
    if re.fullmatch(r"[\w.-]+/[\w.-]+", mirror) and not mirror.startswith("."):
        from huggingface_hub import get_token, hf_hub_url

        token = get_token()  # of who is logged in, for private repositories
        login = {"Authorization": f"Bearer {token}"} if token else {}
        return hf_hub_url(mirror, file), {**login, **plain}
    raise MirrorFailed("is neither a folder nor a web address nor OWNER/NAME of the Hub")


def _from_mirror(mirror: str, entry: Entry, partial: Path, progress: bool) -> None:
    """Makes `partial` the whole file.

    Raises MirrorFailed if this mirror does not bring it.
    """
    begun = _size(partial)
    if Path(mirror).is_dir():
        if not (Path(mirror) / entry.file).is_file():
            raise MirrorFailed("does not have it")
        shutil.copyfile(Path(mirror) / entry.file, partial)
    else:
        _from_web(*address(mirror, entry.file), entry, partial, progress)
    if _size(partial) == entry.bytes and file_sha256(partial) == entry.sha256:
        return
    partial.unlink()
    if begun:  # perhaps only the beginning was wrong, from another mirror or an older file
        return _from_mirror(mirror, entry, partial, progress)
    raise MirrorFailed("has another file of that name (its SHA-256 is wrong)")


def _from_web(
    url: str, headers: dict[str, str], entry: Entry, partial: Path, progress: bool
) -> None:
    """Brings `partial` to its full size, in as many tries as go on bringing something."""
    import requests
    from tqdm.auto import tqdm

    failed, reason = 0, ""
    with tqdm(
        total=entry.bytes, desc=entry.file, unit="B", unit_scale=True, disable=not progress
    ) as bar:
        while (have := _size(partial)) != entry.bytes:
            if failed == TRIES:
                raise MirrorFailed(reason)
            if failed:
                time.sleep(PAUSE * 2 ** (failed - 1))
            try:
                ranged = {**headers, "Range": f"bytes={have}-"} if have else headers
                with requests.get(url, headers=ranged, timeout=TIMEOUT, stream=True) as answer:
                    _receive(answer, partial, have, entry, bar)
                reason = "broke off"
            except requests.RequestException as error:
                reason = f"cannot be reached or broke off ({type(error).__name__})"
            except _Passing as error:
                reason = str(error)
            failed = 0 if _size(partial) - have >= STEADY else failed + 1


class _Passing(Exception):
    """What may be better the next time."""


def _receive(answer: Response, partial: Path, have: int, entry: Entry, bar: tqdm[Any]) -> None:
    """Writes what a server sends behind the `have` bytes that are there.

    Raises MirrorFailed if it has no such file, or one of another size.
    """
    if answer.status_code == 416 or have > entry.bytes:  # what is here cannot be its beginning
        partial.unlink(missing_ok=True)
        raise _Passing("has a shorter file of that name")
    if answer.status_code in PASSING:
        raise _Passing(f"answers {answer.status_code}")
    if answer.status_code not in (200, 206):
        missing = answer.status_code in (404, 410)
        raise MirrorFailed("does not have it" if missing else f"answers {answer.status_code}")
    goes_on = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(
        f"bytes {have}-"
    )
    if answer.status_code == 206 and not goes_on:
        partial.unlink(missing_ok=True)
        raise _Passing("sends another part of the file than asked for")
    have = have if goes_on else 0
    length = answer.headers.get("Content-Length")
    if length is not None and have + int(length) != entry.bytes:
        raise MirrorFailed(f"has {have + int(length)} bytes of that name, not {entry.bytes}")
    bar.update(have - bar.n)
    with open(partial, "ab" if goes_on else "wb") as file:
        for piece in answer.iter_content(1 << 14):
            have += len(piece)
            if have > entry.bytes:
                raise MirrorFailed(f"sends more than the {entry.bytes} bytes")
            file.write(piece)
            bar.update(len(piece))


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0

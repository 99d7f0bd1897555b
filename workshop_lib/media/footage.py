"""Any other video becomes episodes too: `workshop import`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from workshop_lib.data.episodes import Episode
from workshop_lib.data.shards import FORMATS
from workshop_lib.data.writer import ShardWriter, default_format
from workshop_lib.errors import WorkshopError
from workshop_lib.media.video import iter_video

VIDEO = {".mp4", ".mov", ".mkv", ".avi", ".webm", ".gif"}
PICTURE = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
Fit = Literal["squash", "crop"]


class Footage(NamedTuple):
    """One continuous video: its frames one by one, and the action of each frame if known.

    frames: uint8 (H, W, C), any size. actions: int (T,) or None. level: its level, if it has one.
    """

    name: str
    frames: Iterable[np.ndarray]
    actions: np.ndarray | None
    level: int | None = None


def import_footage(
    source: str,
    out: str,
    size: int = 64,
    fit: Fit = "squash",
    every: int = 1,
    max_frames: int = 160,
    format: Literal["auto", "array_record", "npz", "npy"] = "auto",
    progress: bool = True,
) -> Path:
    """Turns videos, picture folders, .npz or .h5 files into episodes.

    Every video counts as a level of its own, so that `workshop split` keeps videos apart. Actions
    are optional: for videos and picture folders NAME.actions.npy beside them (one whole number
    for each frame), for .npz and .h5 an array `actions` beside `frames`.

    Args:
        source: a file, or a folder of videos, of picture folders, of pictures, or of arrays.
        out: folder for the shard.
        size: height and width of the recorded frames, in pixels.
        fit: squash the whole picture into a square, or crop its middle.
        every: keep every n-th frame.
        max_frames: longer videos go on in a further episode.
        format: array_record, npz or npy; auto takes the best that this machine can write.
        progress: show a progress bar.
    """
    from tqdm.auto import tqdm

    if size < 1 or every < 1 or max_frames < 2:
        raise WorkshopError(
            f"--size {size} and --every {every} must be 1 or more, --max_frames {max_frames} 2"
        )
    place = Path(source)
    suffix = FORMATS[default_format() if format == "auto" else format]
    path = Path(out) / f"{place.stem}-00000-of-00001{suffix}"
    if path.exists():
        raise WorkshopError(f"{path} exists already: delete it or use another folder")
    with ShardWriter(path) as writer, tqdm(unit="frame", disable=not progress) as bar:
        for number, footage in enumerate(find_footage(place)):
            bar.set_description(footage.name)
            for episode in _cut(footage, number, size, fit, every, max_frames):
                writer.write(episode)
                bar.update(len(episode))
    return path


def find_footage(place: Path) -> Iterator[Footage]:
    """The videos in a file or folder, sorted by name.

    Raises WorkshopError if there is nothing to import.
    """
    if not place.exists():
        raise WorkshopError(f"{place}: no such file or folder")
    if place.is_file():
        yield from _from_file(place)
        return
    inside = sorted(path for path in place.iterdir() if not path.name.startswith("."))
    if any(path.suffix.lower() in PICTURE for path in inside):
        yield _from_pictures(place)
        return
    found = False
    for path in inside:
        if path.is_dir() and any(p.suffix.lower() in PICTURE for p in path.iterdir()):
            found = True
            yield _from_pictures(path)
        elif path.suffix.lower() in VIDEO | {".npz", ".h5", ".hdf5"}:
            found = True
            yield from _from_file(path)
    if not found:
        raise WorkshopError(
            f"{place}: nothing to import; it should hold videos (mp4, gif, ...), folders of "
            f"pictures (png, jpg), .npz or .h5 files"
        )


def _from_file(path: Path) -> Iterator[Footage]:
    kind = path.suffix.lower()
    if kind in VIDEO:
        if kind == ".gif" and _actions_beside(path) is not None:
            raise WorkshopError(
                f"{path}: a GIF stores a still stretch as one frame, so actions do not match its "
                f"frames; import an mp4 or a folder of pictures"
            )
        yield Footage(path.stem, iter_video(path), _actions_beside(path))
    elif kind == ".npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                yield from _from_arrays(path, {key: file[key] for key in file.files})
        except (ValueError, OSError) as error:
            raise WorkshopError(f"{path}: cannot be read as .npz ({error})") from error
    elif kind in (".h5", ".hdf5"):
        yield from _from_h5(path)
    else:
        raise WorkshopError(f"{path}: do not know how to import {kind or 'this'} files")


def _from_h5(path: Path) -> Iterator[Footage]:
    try:
        import h5py
    except ImportError:
        raise WorkshopError(f"{path}: .h5 files need h5py; run `pip install h5py`") from None
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise WorkshopError(f"{path}: cannot be read as .h5 ({error})") from error
    with file:
        yield from _from_arrays(path, {key: file[key] for key in file})


def _from_arrays(path: Path, arrays: dict[str, Any]) -> Iterator[Footage]:
    """frames (T, H, W, C) or (N, T, H, W, C); actions and levels to match. Read bit by bit."""
    if "frames" not in arrays:
        raise WorkshopError(f"{path}: no array named 'frames' (found: {', '.join(arrays)})")
    frames, actions = arrays["frames"], arrays.get("actions")
    if frames.dtype != np.uint8 or frames.ndim not in (4, 5) or frames.shape[-1] not in (1, 3, 4):
        raise WorkshopError(
            f"{path}: frames must be uint8 (T, H, W, C) or (N, T, H, W, C), got {frames.dtype} "
            f"{frames.shape}"
        )
    if actions is not None and actions.shape != frames.shape[:-3]:
        raise WorkshopError(
            f"{path}: actions must have the shape {frames.shape[:-3]}, got {actions.shape}"
        )
    if frames.ndim == 4:
        yield Footage(path.stem, frames, None if actions is None else np.asarray(actions))
        return
    levels = arrays.get("level_seeds")
    for n in range(len(frames)):
        level = None if levels is None else int(levels[n])
        pressed = None if actions is None else np.asarray(actions[n])
        yield Footage(f"{path.stem} {n}", frames[n], pressed, level)


def _from_pictures(folder: Path) -> Footage:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE)
    return Footage(folder.name, map(_read_picture, paths), _actions_beside(folder))


def _read_picture(path: Path) -> np.ndarray:
    from PIL import Image

    try:
        return np.asarray(Image.open(path).convert("RGB"))
    except OSError as error:
        raise WorkshopError(f"{path}: cannot be read as a picture ({error})") from error


def _actions_beside(path: Path) -> np.ndarray | None:
    beside = path.with_name(path.stem + ".actions.npy")
    if not beside.exists():
        return None
    actions = np.load(beside, allow_pickle=False)
    if actions.ndim != 1 or actions.dtype.kind not in "iu":
        raise WorkshopError(f"{beside}: needs whole numbers of shape (T,), got {actions.dtype}")
    return actions


def _cut(
    footage: Footage, number: int, size: int, fit: Fit, every: int, max_frames: int
) -> Iterator[Episode]:
    """One video as episodes of at most max_frames frames; the first is marked as the start."""
    frames = (_resize(frame, size, fit) for frame in islice(footage.frames, 0, None, every))
    actions = None if footage.actions is None else footage.actions[::every]
    done = 0
    while part := list(islice(frames, max_frames)):
        end = done + len(part)
        if actions is not None and end > len(actions):
            raise WorkshopError(f"{footage.name}: only {len(actions)} actions for its frames")
        first = np.zeros(len(part), dtype=bool)
        first[0] = done == 0
        yield Episode(
            frames=np.stack(part),
            actions=None if actions is None else actions[done:end].astype(np.int32),
            first=first,
            level_seed=number if footage.level is None else footage.level,
        )
        done = end
    if done == 0:
        raise WorkshopError(f"{footage.name}: has no frames")


def _resize(frame: np.ndarray, size: int, fit: Fit) -> np.ndarray:
    """uint8 (H, W, C) to (size, size, 3), each new pixel the mean of those it covers."""
    from PIL import Image

    if frame.ndim == 3 and frame.shape[-1] == 1:
        frame = frame[..., 0]
    picture = Image.fromarray(np.ascontiguousarray(frame)).convert("RGB")
    if fit == "crop":
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side))
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BOX)
    return np.asarray(picture)

"""One Episode, and how it becomes one record on disk.

The record layout is the one that jasmine's and the p-doom/coinrun-dataset's readers expect: a
pickled dictionary with `raw_video` (uint8 bytes, T*H*W*C), `sequence_length` and `actions` (int32
(T,)). We add `height`, `width`, `first`, `reward`, `over`, `level_seed` and, where `workshop
encode` wrote them, `tokens` (little-endian uint16 or uint32 bytes, T*h*w) with `token_grid` (h, w);
we read records without them.
"""

from __future__ import annotations

import math
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np

from workshop_lib.data import safe_pickle
from workshop_lib.errors import WorkshopError

CHANNELS = 3
TOKEN_DTYPES = (np.uint16, np.uint32)
PER_FRAME = ("actions", "first", "reward", "over")  # what may be known of each frame


@dataclass(frozen=True)
class Episode:
    """A stretch of play within one level, T frames long.

    frames: uint8 (T, H, W, C).
    actions: int32 (T,), `actions[t]` pressed after seeing frame t; None if nobody recorded them.
        The last one led to a frame that is not in this episode.
    first: bool (T,), True at frame 0 if the level began there, False if this is a later stretch.
    reward: float32 (T,), what `actions[t]` earned; None if unknown.
    level_seed: which level; None if unknown.
    tokens: uint16 or uint32 (T, h, w), the frames as a tokenizer's codes; None if not encoded.
    over: bool (T,), whether `actions[t]` ended the level, as only the last one can; False there if
        the recording was cut or the level given up. None if unknown.
    """

    frames: np.ndarray
    actions: np.ndarray | None = None
    first: np.ndarray | None = None
    reward: np.ndarray | None = None
    level_seed: int | None = None
    tokens: np.ndarray | None = None
    over: np.ndarray | None = None

    def __post_init__(self) -> None:
        frames = self.frames
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != CHANNELS:
            raise WorkshopError(
                f"frames must be uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}"
            )
        if len(frames) == 0:
            raise WorkshopError("an episode needs at least one frame")
        for name in PER_FRAME:
            value = getattr(self, name)
            if value is not None and value.shape != (len(frames),):
                raise WorkshopError(
                    f"{name} must have one entry per frame, ({len(frames)},), got {value.shape}"
                )
        tokens = self.tokens
        if tokens is not None and not (
            tokens.ndim == 3 and len(tokens) == len(frames) and tokens.dtype in TOKEN_DTYPES
        ):
            raise WorkshopError(
                f"tokens must be uint16 or uint32 (T, h, w), T = {len(frames)}, got "
                f"{tokens.dtype} {tokens.shape}"
            )

    def __len__(self) -> int:
        return len(self.frames)


def encode_episode(episode: Episode) -> bytes:
    """The episode as one record."""
    length, height, width, _ = episode.frames.shape
    record: dict[str, Any] = {
        "raw_video": episode.frames.tobytes(),
        "sequence_length": length,
        "height": height,
        "width": width,
    }
    if episode.actions is not None:
        record["actions"] = episode.actions.astype(np.int32)
    if episode.first is not None:
        record["first"] = episode.first.astype(bool)
    if episode.reward is not None:
        record["reward"] = episode.reward.astype(np.float32)
    if episode.over is not None:
        record["over"] = episode.over.astype(bool)
    if episode.level_seed is not None:
        record["level_seed"] = int(episode.level_seed)
    if episode.tokens is not None:
        little_endian = episode.tokens.dtype.newbyteorder("<")
        record["tokens"] = episode.tokens.astype(little_endian).tobytes()
        record["token_grid"] = episode.tokens.shape[1:]
    return pickle.dumps(record, protocol=4)


def decode_episode(data: bytes, where: str) -> Episode:
    """The episode of one record; `where` names file and record in errors.

    Records without height and width are taken as square. Nothing in the record is ever run.

    Raises WorkshopError naming the record for anything that is not an episode.
    """
    try:
        record = safe_pickle.loads(data)
    except safe_pickle.RefusedPickleError as error:
        raise WorkshopError(f"{where} is not an episode: {error}") from error
    if not isinstance(record, dict):
        raise WorkshopError(f"{where} is not an episode: it holds a {type(record).__name__}")
    for key in ("raw_video", "sequence_length"):
        if key not in record:
            raise WorkshopError(f"{where} is not an episode: it has no {key!r}")
    frames = _frames(record, where)
    try:
        return Episode(
            frames=frames,
            actions=_column(record, "actions", np.int32),
            first=_column(record, "first", np.bool_),
            reward=_column(record, "reward", np.float32),
            over=_column(record, "over", np.bool_),
            level_seed=None if record.get("level_seed") is None else int(record["level_seed"]),
            tokens=_tokens(record, len(frames)),
        )
    except (WorkshopError, TypeError, ValueError) as error:
        raise WorkshopError(f"{where}: {error}") from error


def _frames(record: dict[str, Any], where: str) -> np.ndarray:
    raw, length = record["raw_video"], record["sequence_length"]
    if not isinstance(raw, (bytes, bytearray)):
        raise WorkshopError(f"{where}: raw_video is a {type(raw).__name__}, not bytes")
    if not isinstance(length, (int, np.integer)) or length < 1:
        raise WorkshopError(f"{where}: sequence_length is {length!r}, not a positive number")
    pixels = len(raw) // (int(length) * CHANNELS)
    side = max(1, math.isqrt(pixels))  # for records that do not say
    height, width = record.get("height", side), record.get("width", side)
    if not all(isinstance(size, (int, np.integer)) and size > 0 for size in (height, width)):
        raise WorkshopError(f"{where}: bad height {height!r} or width {width!r}")
    claimed = int(length) * int(height) * int(width) * CHANNELS
    if claimed != len(raw):
        raise WorkshopError(
            f"{where}: claims {length} frames of {height}x{width}x{CHANNELS} = {claimed} bytes, "
            f"but raw_video has {len(raw)}"
        )
    return np.frombuffer(raw, dtype=np.uint8).reshape(int(length), height, width, CHANNELS)


def _column(record: dict[str, Any], key: str, dtype: type) -> np.ndarray | None:
    return None if record.get(key) is None else np.asarray(record[key]).astype(dtype)


def _tokens(record: dict[str, Any], length: int) -> np.ndarray | None:
    """The record's tokens; how many bytes there are says which integers they are."""
    raw = record.get("tokens")
    if raw is None:
        return None
    if not isinstance(raw, (bytes, bytearray)):
        raise WorkshopError(f"tokens are a {type(raw).__name__}, not bytes")
    shape = (length, *(int(side) for side in record.get("token_grid", ())))
    for code in ("<u2", "<u4"):
        if len(shape) == 3 and min(shape) > 0 and len(raw) == math.prod(shape) * int(code[-1]):
            native = np.dtype(code).newbyteorder("=")
            return np.frombuffer(raw, code).astype(native, copy=False).reshape(shape)
    raise WorkshopError(f"{len(raw)} bytes of tokens do not fit token_grid {shape[1:]}")

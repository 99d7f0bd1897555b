"""Videos on disk (mp4, GIF) and GIFs shown in a notebook."""

from __future__ import annotations

import io
import os
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from workshop_lib.errors import WorkshopError
from workshop_lib.media.picture import checked_frames, complete_file, enlarge

# x264's constant quality: at 14 a 64x64 game frame keeps over 30 dB, which the usual 23 loses.
QUALITY = 14
_BT601, _LIMITED = 6, 1  # FFmpeg's numbers; untagged, players guess the colors from the size
MAX_GIF_FPS = 50  # browsers slow a GIF that is faster than this to 10 frames a second


def write_video(path: str | os.PathLike[str], frames: ArrayLike, fps: float = 15) -> None:
    """Writes a video as .mp4 or .gif, by the suffix; the file appears when it is complete.

    frames: uint8 (T, H, W, 3). fps: frames per second; Procgen games are drawn at 15.

    mp4 is H.264 with colors at half resolution (yuv420p), which every browser plays; enlarge
    small games first (`draw_keys` does), or their single pixels lose color. H.264 wants even
    sizes: an odd height or width gets its last row or column twice.

    Raises WorkshopError for another suffix, wrong frames or an impossible fps.
    """
    suffix = Path(path).suffix.lower()
    frames = checked_frames(frames, f"{path}: frames")
    if suffix == ".gif":
        data = gif_bytes(frames, fps)
        with complete_file(path) as partial:
            partial.write_bytes(data)
    elif suffix == ".mp4":
        _check_fps(fps)
        with complete_file(path) as partial:
            _write_mp4(partial, frames, fps)
    else:
        raise WorkshopError(f"{path}: cannot write a video as {suffix!r}; use .mp4 or .gif")


def read_video(path: str | os.PathLike[str]) -> np.ndarray:
    """A whole video file as uint8 (T, H, W, 3). Long ones: `iter_video`.

    Raises WorkshopError if the file is missing, is no video or is damaged.
    """
    return np.stack(list(iter_video(path)))


def iter_video(path: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    """The frames of a video file one by one, each uint8 (H, W, 3); reads what FFmpeg reads.

    The frames come as they are stored: a GIF stores a still stretch as one frame.

    Raises WorkshopError if the file is missing, is no video, is damaged or changes its size.
    """
    import av

    if not Path(path).is_file():
        raise WorkshopError(f"{path}: no such file")
    count, shape = 0, None
    try:
        with av.open(os.fspath(path)) as container:
            if not container.streams.video:
                raise WorkshopError(f"{path}: has no pictures in it, only other streams")
            # Decoding several frames at once would be faster, but hides that a file is cut off.
            container.streams.video[0].thread_type = "SLICE"
            for frame in container.decode(video=0):
                picture = frame.to_ndarray(format="rgb24")
                shape = shape or picture.shape
                if picture.shape != shape:
                    raise WorkshopError(
                        f"{path}: frame {count} is {picture.shape}, those before it are {shape}; "
                        f"re-encode the video to one size"
                    )
                yield picture
                count += 1
    except av.FFmpegError as error:
        where = f"damaged after frame {count}" if count else "not a video that can be read"
        raise WorkshopError(f"{path}: {where} ({error.strerror})") from error
    if count == 0:
        raise WorkshopError(f"{path}: holds no frames")


def gif_bytes(frames: ArrayLike, fps: float = 15) -> bytes:
    """An endless GIF in memory.

    Every frame has its own palette of 256 colors. GIF counts time in hundredths of a second: the
    frames' durations differ by one where needed, so that the whole keeps time. Frames equal to
    the one before are not stored again; that one is shown for longer.

    frames: uint8 (T, H, W, 3). fps: 0.1 to 50.

    Raises WorkshopError for wrong frames or an impossible fps.
    """
    frames = checked_frames(frames)
    _check_fps(fps)
    if fps > MAX_GIF_FPS:
        raise WorkshopError(
            f"a GIF shows at most {MAX_GIF_FPS} frames per second, got fps={fps}; use .mp4"
        )
    pictures = [
        Image.fromarray(frame).quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        for frame in frames
    ]
    ticks = np.diff(np.round(np.arange(len(frames) + 1) * 100 / fps)).astype(int)
    milliseconds = (10 * ticks).tolist()
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, "GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0
    )
    return buffer.getvalue()


@dataclass(frozen=True)
class Gif:
    """A GIF that a notebook shows where it is a cell's result.

    It is shown as HTML: exported notebooks leave out pictures of the type image/gif.
    """

    data: bytes
    width: int | None = None

    def _repr_html_(self) -> str:
        size = "" if self.width is None else f' width="{self.width}"'
        return f'<img src="data:image/gif;base64,{b64encode(self.data).decode()}"{size}>'


def show_gif(frames: ArrayLike, fps: float = 15, width: int | None = None) -> Gif:
    """A GIF for the end of a notebook cell.

    frames: uint8 (T, H, W, 3). width: how wide it is shown in pixels; the frames are first
    enlarged by whole pixels up to that, since a browser would blur them. None: as they are.

    Raises WorkshopError for wrong frames, fps or width.
    """
    frames = checked_frames(frames)
    if width is not None:
        if width < 1:
            raise WorkshopError(f"width must be 1 pixel or more, got {width}")
        frames = enlarge(frames, max(1, round(width / frames.shape[2])))
    return Gif(gif_bytes(frames, fps), width)


def _check_fps(fps: float) -> None:
    if not 0.1 <= fps <= 1000:
        raise WorkshopError(f"fps must be from 0.1 to 1000 frames per second, got {fps}")


def _write_mp4(path: Path, frames: np.ndarray, fps: float) -> None:
    import av

    # PyAV itself and not imageio, which cannot set the quality.
    H, W = frames.shape[1:3]
    rate: Any = Fraction(float(fps)).limit_denominator(1001)
    with av.open(os.fspath(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(QUALITY)})
        stream.height, stream.width = H + H % 2, W + W % 2
        stream.pix_fmt = "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = _BT601, _LIMITED
        for frame in frames:
            even = np.pad(frame, ((0, H % 2), (0, W % 2), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())

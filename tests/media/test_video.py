"""mp4 and GIF: what is written comes back, and bad files say so."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workshop_lib.data.actions import RIGHT
from workshop_lib.data.game import Game, GameConfig, available_backends
from workshop_lib.errors import WorkshopError
from workshop_lib.media.overlay import draw_keys
from workshop_lib.media.video import gif_bytes, iter_video, read_video, show_gif, write_video


def moving_picture(T: int = 20, H: int = 64, W: int = 64) -> np.ndarray:
    """A colored block that moves one pixel a frame over a soft background: (T, H, W, 3)."""
    y, x = np.mgrid[:H, :W]
    background = np.stack([90 + x * 100 / W, 140 + y * 60 / H, 120 + 0 * x], -1).astype(np.uint8)
    frames = np.repeat(background[None], T, axis=0)
    for t in range(T):
        frames[t, H // 2 : H // 2 + 8, 4 + t : 12 + t] = (220, 60, 40)
    return frames


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB; higher is closer."""
    return 10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2))


def gif_durations(data: bytes) -> list[int]:
    """Milliseconds of every frame of a GIF."""
    image = Image.open(io.BytesIO(data))
    durations = []
    for i in range(image.n_frames):
        image.seek(i)
        durations.append(image.info["duration"])
    return durations


@pytest.mark.parametrize("size", [(64, 64), (256, 300), (63, 64), (64, 51), (1, 1)])
def test_mp4_keeps_count_size_and_content(tmp_path: Path, size: tuple[int, int]) -> None:
    H, W = size
    frames = moving_picture(20, 64, 64)[:, :H, :W] if H <= 64 else moving_picture(20, H, W)
    write_video(tmp_path / "film.mp4", frames)
    back = read_video(tmp_path / "film.mp4")
    assert back.dtype == np.uint8
    assert back.shape == (20, H + H % 2, W + W % 2, 3)  # H.264 wants even sizes
    assert psnr(back[:, :H, :W], frames) > 30
    # In the right order: every frame is closest to its own original.
    if W > 40:
        nearest = [np.argmax([psnr(b, f) for f in frames]) for b in back[:, :H, :W]]
        assert nearest == list(range(20))


def test_real_coinrun_survives_mp4(tmp_path: Path) -> None:
    if not available_backends():
        pytest.skip("no simulator of CoinRun on this machine")
    recorded = []
    with Game(GameConfig(look="hard", levels=(0, 50)), seed=1) as game:
        for _ in range(30):
            recorded.append(game.observe().frames[0].copy())
            game.act(np.array([RIGHT]))
    frames = draw_keys(recorded, [RIGHT] * 30, scale=4)
    write_video(tmp_path / "game.mp4", frames)
    assert psnr(read_video(tmp_path / "game.mp4"), frames) > 35
    write_video(tmp_path / "small.mp4", np.stack(recorded))
    assert psnr(read_video(tmp_path / "small.mp4"), np.stack(recorded)) > 29


def test_mp4_says_its_frame_rate_and_colors(tmp_path: Path) -> None:
    import av

    for fps in (15, 29.97, 0.5):
        write_video(tmp_path / "film.mp4", moving_picture(6), fps)
        with av.open(str(tmp_path / "film.mp4")) as container:
            stream = container.streams.video[0]
            assert float(stream.average_rate) == pytest.approx(fps)
            assert stream.codec_context.pix_fmt == "yuv420p"
            assert next(container.decode(stream)).colorspace == 6  # BT.601, not left to guess


def test_frames_can_be_read_one_by_one(tmp_path: Path) -> None:
    write_video(tmp_path / "film.mp4", moving_picture(12))
    frames = iter_video(tmp_path / "film.mp4")
    first, second = next(frames), next(frames)
    assert first.shape == (64, 64, 3) and not np.array_equal(first, second)
    assert len(list(frames)) == 10


def test_gif_keeps_every_frame_and_keeps_time() -> None:
    frames = moving_picture(30)
    durations = gif_durations(gif_bytes(frames, fps=15))
    assert len(durations) == 30 and set(durations) == {60, 70}
    assert sum(durations) == 2000
    assert gif_durations(gif_bytes(frames, fps=20)) == [50] * 30


def test_gif_shows_a_still_stretch_for_as_long_as_it_lasts() -> None:
    frames = moving_picture(3)[[0, 0, 0, 1, 2]]
    assert gif_durations(gif_bytes(frames, fps=10)) == [300, 100, 100]
    assert gif_durations(gif_bytes(frames[:3], fps=10)) == [300]


def test_gif_is_exact_up_to_256_colors_and_close_beyond(tmp_path: Path) -> None:
    few = moving_picture(8) // 64 * 64
    write_video(tmp_path / "few.gif", few)
    assert np.array_equal(read_video(tmp_path / "few.gif"), few)
    many = moving_picture(8, 128, 128)
    assert len(np.unique(many[0].reshape(-1, 3), axis=0)) > 256
    write_video(tmp_path / "many.gif", many)
    assert psnr(read_video(tmp_path / "many.gif"), many) > 35


def test_gif_runs_forever() -> None:
    assert Image.open(io.BytesIO(gif_bytes(moving_picture(3)))).info["loop"] == 0


def test_show_gif_enlarges_by_whole_pixels() -> None:
    shown = show_gif(moving_picture(4), width=256)
    picture = np.asarray(Image.open(io.BytesIO(shown.data)).convert("RGB"))
    assert picture.shape == (256, 256, 3) and shown.width == 256
    assert np.array_equal(picture[::4, ::4], picture[3::4, 3::4])
    with pytest.raises(WorkshopError, match="width"):
        show_gif(moving_picture(4), width=0)


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"film{suffix}"
    write_video(path, moving_picture(5))
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_video(path, moving_picture(9))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_folders_are_made(tmp_path: Path) -> None:
    write_video(tmp_path / "new" / "folder" / "film.GIF", moving_picture(2))
    assert len(read_video(tmp_path / "new" / "folder" / "film.GIF")) == 2


def test_bad_frames_rates_and_suffixes_are_named(tmp_path: Path) -> None:
    frames = moving_picture(4)
    with pytest.raises(WorkshopError, match=r"'\.avi'; use \.mp4 or \.gif"):
        write_video(tmp_path / "film.avi", frames)
    for wrong in (frames[:0], frames[0], frames[..., :1], frames[..., 0], frames.astype(float)):
        for name in ("film.mp4", "film.gif"):
            with pytest.raises(WorkshopError, match=f"{name}: frames must"):
                write_video(tmp_path / name, wrong)
    with pytest.raises(WorkshopError, match="not one array"):
        write_video(tmp_path / "film.mp4", [frames[0], frames[0, :5]])
    for fps in (0, -1, float("nan"), float("inf")):
        with pytest.raises(WorkshopError, match="fps"):
            write_video(tmp_path / "film.mp4", frames, fps)
    with pytest.raises(WorkshopError, match="at most 50"):
        gif_bytes(frames, fps=60)
    assert list(tmp_path.iterdir()) == []


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(WorkshopError, match=r"none\.mp4: no such file"):
        read_video(tmp_path / "none.mp4")
    for content in (b"", b"this is a text, not a film\n" * 99):
        (tmp_path / "text.mp4").write_bytes(content)
        with pytest.raises(WorkshopError, match=r"text\.mp4: not a video"):
            read_video(tmp_path / "text.mp4")


def test_a_cut_off_file_says_so(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    write_video(tmp_path / "film.mp4", frames)
    data = (tmp_path / "film.mp4").read_bytes()
    for length in (100, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.mp4").write_bytes(data[:length])
        with pytest.raises(WorkshopError, match=r"cut\.mp4"):
            read_video(tmp_path / "cut.mp4")


def test_a_file_with_sound_alone_has_no_pictures(tmp_path: Path) -> None:
    import av

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        silence = np.zeros((1, 2 * 1024), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="flt", layout="stereo")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(WorkshopError, match="no pictures"):
        read_video(path)

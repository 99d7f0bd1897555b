"""Contact sheets and single pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from workshop_lib.errors import WorkshopError
from workshop_lib.media.sheet import LABEL_HEIGHT, cell_corner, contact_sheet, write_image


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (7, 10, 12, 3), dtype=np.uint8)


@pytest.mark.parametrize("columns", [1, 3, 7, 20])
@pytest.mark.parametrize("labeled", [False, True])
@pytest.mark.parametrize("scale", [1, 3])
def test_frames_lie_where_cell_corner_says(
    frames: np.ndarray, columns: int, labeled: bool, scale: int
) -> None:
    labels = [f"{n}" for n in range(7)] if labeled else None
    sheet = contact_sheet(frames, columns, labels, scale)
    H, W = 10 * scale, 12 * scale
    free = np.ones(sheet.shape[:2], dtype=bool)
    for n in range(7):
        y, x = cell_corner(n, columns, H, W, labeled)
        assert np.array_equal(sheet[y : y + H : scale, x : x + W : scale], frames[n])
        free[y : y + H + (LABEL_HEIGHT if labeled else 0), x : x + W] = False
    assert (sheet[free] == 255).all(), "margins and empty cells are white"
    assert free[0].all() and free[-1].all() and free[:, 0].all() and free[:, -1].all()


def test_labels_stand_below_their_own_frame(frames: np.ndarray) -> None:
    labels = ["a"] * 7
    one = contact_sheet(frames, 3, labels, scale=4)
    labels[4] = "b"
    other = contact_sheet(frames, 3, labels, scale=4)
    y, x = np.nonzero((one != other).any(-1))
    top, left = cell_corner(4, 3, 40, 48, labeled=True)
    assert y.min() >= top + 40 and y.max() < top + 40 + LABEL_HEIGHT
    assert x.min() >= left and x.max() < left + 48


def test_long_labels_are_cut_not_spilled(frames: np.ndarray) -> None:
    labels = ["a label much longer than its frame is wide"] * 7
    sheet = contact_sheet(frames, 3, labels, scale=4)
    _, left = cell_corner(1, 3, 40, 48, labeled=True)
    assert (sheet[:, left - 3 : left - 1] == 255).all()


def test_bad_input_is_named(frames: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(WorkshopError, match="columns >= 1"):
        contact_sheet(frames, 0)
    with pytest.raises(WorkshopError, match="7 labels"):
        contact_sheet(frames, 3, ["one"])
    with pytest.raises(WorkshopError, match="none of them 0"):
        contact_sheet(frames[:0], 3)
    with pytest.raises(WorkshopError, match=r"sheet\.bmp.*\.png"):
        write_image(tmp_path / "sheet.bmp", frames[0])
    with pytest.raises(WorkshopError, match=r"sheet\.png: the picture"):
        write_image(tmp_path / "sheet.png", frames)


def test_png_comes_back_exactly(frames: np.ndarray, tmp_path: Path) -> None:
    write_image(tmp_path / "new" / "frame.png", frames[0])
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "frame.png")), frames[0])
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["frame.png"]

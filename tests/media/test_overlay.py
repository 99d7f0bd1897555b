"""Keys under the frames, and several videos in one."""

import numpy as np
import pytest
import torch

from workshop_lib.data.actions import ACTIONS, LEFT, NOTHING, RIGHT, RIGHT_JUMP
from workshop_lib.errors import WorkshopError
from workshop_lib.media.keys import LIT, key_size
from workshop_lib.media.overlay import draw_keys, side_by_side, stack


@pytest.fixture
def frames() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


def lit_columns(strip: np.ndarray) -> np.ndarray:
    """Which columns of a strip (S, W, 3) have a lit pixel: bool (W,)."""
    return (strip == LIT).all(-1).any(0)


def strip_of(action: int, scale: int = 4) -> np.ndarray:
    game = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    return draw_keys(game, [action], scale)[0, 64 * scale :]


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_the_game_is_enlarged_and_never_covered(frames: np.ndarray, scale: int) -> None:
    drawn = draw_keys(frames, [RIGHT, LEFT, 9], scale, captions=["one", "two words", "x " * 99])
    assert np.array_equal(drawn[:, : 64 * scale : scale, ::scale], frames)
    blocks = drawn[:, : 64 * scale].reshape(3, 64, scale, 64, scale, 3)
    assert np.array_equal(blocks.min(axis=(2, 4)), blocks.max(axis=(2, 4)))
    assert 0 < drawn.shape[1] - 64 * scale < 64 * scale / 2


def test_every_action_looks_different_and_nothing_lights_nothing() -> None:
    strips = [strip_of(action.index) for action in ACTIONS]
    assert len({strip.tobytes() for strip in strips}) == len(ACTIONS)
    assert not lit_columns(strips[NOTHING]).any()


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_the_lit_key_lies_where_its_arrow_lies(scale: int) -> None:
    size = key_size(64 * scale)

    def lit_middle(action: int) -> tuple[float, float]:
        y, x = np.nonzero((strip_of(action, scale) == LIT).all(-1))
        return float(y.mean()), float(x.mean())

    (jump_y, jump_x), (down_y, down_x) = lit_middle(5), lit_middle(3)
    (left_y, left_x), (right_y, right_x) = lit_middle(LEFT), lit_middle(RIGHT)
    assert right_x - left_x == pytest.approx(2 * size, abs=size / 2)
    assert down_y - jump_y == pytest.approx(size, abs=size / 2)
    assert jump_x == pytest.approx(down_x, abs=1) and left_y == pytest.approx(right_y, abs=1)
    letter_y, letter_x = lit_middle(9)
    assert letter_x > right_x + size / 2 and letter_y == pytest.approx(right_y, abs=size / 4)


def test_two_keys_light_together() -> None:
    both, right, jump = (lit_columns(strip_of(a)) for a in (RIGHT_JUMP, RIGHT, 5))
    assert np.array_equal(both, right | jump)


def test_the_action_is_drawn_on_the_frame_after_which_it_was_pressed(frames: np.ndarray) -> None:
    drawn = draw_keys(frames, [RIGHT, NOTHING, LEFT])
    lit = [lit_columns(frame[256:]) for frame in drawn]
    assert not lit[1].any()
    assert np.flatnonzero(lit[0]).min() > np.flatnonzero(lit[2]).max()


def test_a_last_frame_without_an_action_has_no_key_lit(frames: np.ndarray) -> None:
    drawn = draw_keys(torch.from_numpy(frames), torch.tensor([RIGHT, LEFT]))
    assert [lit_columns(frame[256:]).any() for frame in drawn] == [True, True, False]
    alone = draw_keys(frames[:1], [])
    assert not lit_columns(alone[0, 256:]).any()


def test_captions_stay_off_the_keys_and_differ(frames: np.ndarray) -> None:
    actions = [RIGHT, 9, 14]
    plain = draw_keys(frames, actions)
    captioned = draw_keys(frames, actions, captions=["level 5", "level 6", "level 7"])
    changed = (plain != captioned).any(-1).any(1)  # (T, W)
    reach = 3 * key_size(256) + 2 * (key_size(256) // 5) + key_size(256)
    assert not changed[:, :reach].any() and changed[:, reach:].any(-1).all()
    assert not np.array_equal(captioned[0, 256:, reach:], captioned[1, 256:, reach:])


def test_another_game_brings_its_own_keys(frames: np.ndarray) -> None:
    keys = [(), ("left",), ("space",)]
    drawn = draw_keys(frames, [0, 1, 2], keys=keys)
    lit = [lit_columns(frame[256:]).sum() for frame in drawn]
    assert lit[0] == 0 and 0 < lit[1] < lit[2]
    with pytest.raises(WorkshopError, match=r"actions\[2\] is 3.*keys="):
        draw_keys(frames, [0, 1, 3], keys=keys)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ([1], "must be integers of shape"),
        ([[1], [2], [3]], "must be integers of shape"),
        ([0.5, 1.5, 2.5], "must be integers"),
        ([0, 1, 15], r"actions\[2\] is 15"),
        ([-1, 0, 1], r"actions\[0\] is -1"),
    ],
)
def test_wrong_actions_are_named(frames: np.ndarray, actions: list, message: str) -> None:
    with pytest.raises(WorkshopError, match=message):
        draw_keys(frames, actions)


def test_wrong_frames_captions_and_scale_are_named(frames: np.ndarray) -> None:
    with pytest.raises(WorkshopError, match=r"uint8.*video_to_frames"):
        draw_keys(frames.astype(np.float32), [0, 0, 0])
    with pytest.raises(WorkshopError, match=r"shape \(T, H, W, 3\)"):
        draw_keys(frames[0], [0])
    with pytest.raises(WorkshopError, match="none of them 0"):
        draw_keys(frames[:0], [])
    with pytest.raises(WorkshopError, match="3 captions"):
        draw_keys(frames, [0, 0, 0], captions=["one"])
    for scale in (0, 1.5):
        with pytest.raises(WorkshopError, match="scale"):
            draw_keys(frames, [0, 0, 0], scale=scale)  # type: ignore[arg-type]


def test_side_by_side_keeps_each_video_in_its_place(frames: np.ndarray) -> None:
    other = 255 - frames
    joined = side_by_side([frames, other], scale=2)
    assert np.array_equal(joined[:, ::2, :128:2], frames)
    assert np.array_equal(joined[:, ::2, -128::2], other)


def test_stack_puts_the_first_above_with_its_label(frames: np.ndarray) -> None:
    other = 255 - frames
    labeled = stack([frames, other], ["real", "generated"])
    assert np.array_equal(labeled[:, -64:], other)
    rows = [y for y in range(labeled.shape[1] - 64) if (labeled[:, y] == frames[:, 0]).all()]
    assert len(rows) == 1 and np.array_equal(labeled[:, rows[0] : rows[0] + 64], frames)
    renamed = stack([frames, other], ["imagined", "generated"])
    changed = (labeled != renamed).any((0, 2, 3))
    assert changed[: rows[0]].any() and not changed[rows[0] :].any()


def test_joined_videos_nest_into_a_grid(frames: np.ndarray) -> None:
    row = side_by_side([frames, frames], ["a", "b"])
    assert np.array_equal(stack([row, row])[:, -row.shape[1] :], row)


def test_videos_that_do_not_fit_together_are_named(frames: np.ndarray) -> None:
    with pytest.raises(WorkshopError, match=r"videos\[1\] is \(2, 64, 64, 3\)"):
        side_by_side([frames, frames[:2]])
    with pytest.raises(WorkshopError, match="2 labels"):
        stack([frames, frames], ["one"])
    with pytest.raises(WorkshopError, match="no videos"):
        stack([])

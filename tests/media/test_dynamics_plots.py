"""Pictures of masks: what is covered is what is masked."""

from __future__ import annotations

import numpy as np
import pytest

from workshop_lib.errors import WorkshopError
from workshop_lib.media.dynamics_plots import (
    MASK,
    cover,
    order_map,
    schedule_plot,
    unmasking_pictures,
)

FRAMES = np.random.default_rng(0).integers(0, 128, (3, 12, 18, 3), dtype=np.uint8)


def test_hidden_patches_are_covered_and_all_else_is_untouched() -> None:
    hidden = np.zeros((3, 2, 3), dtype=bool)
    hidden[0, 1, 2] = hidden[2, 0, 0] = hidden[2, 0, 1] = True
    before = FRAMES.copy()
    pictures = cover(FRAMES, hidden)
    assert np.array_equal(FRAMES, before)
    assert np.array_equal(pictures[1], FRAMES[1])
    assert (pictures[0, 6:, 12:] > 128).all() and (pictures[0, 7:11, 13:17] == MASK).all()
    assert np.array_equal(pictures[0, :6], FRAMES[0, :6])
    assert np.array_equal(pictures[0, 6:, :12], FRAMES[0, 6:, :12])
    assert (pictures[2, :6, :12] > 128).all() and np.array_equal(pictures[2, 6:], FRAMES[2, 6:])


def test_a_frame_comes_out_as_its_tokens_are_settled() -> None:
    stages = np.array([[[9, 9, 9], [9, 9, 9]], [[9, 4, 9], [9, 9, 9]], [[1, 4, 3], [2, 0, 8]]])
    pictures = unmasking_pictures(FRAMES[0], stages, mask_id=9)
    assert (pictures[0] > 128).all()
    assert np.array_equal(pictures[1, :6, 6:12], FRAMES[0, :6, 6:12])
    assert (pictures[1, 6:] > 128).all()
    assert np.array_equal(pictures[2], FRAMES[0])


@pytest.mark.parametrize("begins_with_masks", [True, False])
def test_order_map_says_at_which_step_each_token_came(begins_with_masks: bool) -> None:
    stages = np.array([[[9, 4, 9], [9, 9, 9]], [[9, 4, 3], [9, 0, 9]], [[1, 4, 3], [2, 0, 8]]])
    if begins_with_masks:
        stages = np.concatenate([np.full((1, 2, 3), 9), stages])
    figure = order_map(FRAMES[0], stages, mask_id=9)
    shown = figure.axes[1].images[0].get_array()
    assert np.array_equal(shown, [[3, 1, 2], [3, 2, 3]])
    assert [text.get_text() for text in figure.axes[1].texts] == list("312323")


def test_schedule_plot_shows_the_shares_and_what_each_step_settles() -> None:
    figure = schedule_plot({"a": [1, 0.5, 0], "b": [1, 0.9, 0]}, {"a": [5, 0], "b": [9, 0]}, 10)
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines] == [
        [100, 50, 0],
        [100, 90, 0],
    ]
    assert [bar.get_height() for bar in figure.axes[1].patches] == [5, 5, 1, 9]


def test_bad_input_is_named() -> None:
    hidden = np.zeros((3, 2, 3), dtype=bool)
    with pytest.raises(WorkshopError, match=r"hidden must be bool \(3, h, w\)"):
        cover(FRAMES, hidden[:2])
    with pytest.raises(WorkshopError, match="hidden must be bool"):
        cover(FRAMES, hidden.astype(int))
    with pytest.raises(WorkshopError, match="5 by 3 tokens do not divide"):
        cover(FRAMES, np.zeros((3, 5, 3), dtype=bool))
    with pytest.raises(WorkshopError, match="stages must be integers"):
        unmasking_pictures(FRAMES[0], np.zeros((2, 3)), 9)
    with pytest.raises(WorkshopError, match="still has masks"):
        order_map(FRAMES[0], np.full((1, 2, 3), 9), 9)
    with pytest.raises(WorkshopError, match="the same schedules"):
        schedule_plot({"a": [1, 0]}, {"b": [0]}, 4)

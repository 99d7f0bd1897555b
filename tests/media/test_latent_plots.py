"""The picture of which code comes with which key."""

from __future__ import annotations

import numpy as np
import pytest

from workshop_lib.errors import WorkshopError
from workshop_lib.media.latent_plots import confusion_matrix

COUNTS = np.array([[8, 2, 0], [0, 5, 5], [0, 0, 0], [1, 0, 0], [0, 0, 4], [3, 3, 3]])


def test_rows_are_shares_and_columns_are_in_the_order_of_their_meaning() -> None:
    ax = confusion_matrix(COUNTS, ["nothing", "left", "right"]).axes[0]
    shown = np.asarray(ax.images[0].get_array())
    assert shown[0].tolist() == pytest.approx([0.2, 0, 0.8])  # left, right, nothing
    assert shown[2].tolist() == [0, 0, 0]  # a key that was never pressed
    columns = [label.get_text().split("\n")[:2] for label in ax.get_xticklabels()]
    assert columns == [["1", "left"], ["2", "right"], ["0", "nothing"]]
    assert ax.get_yticklabels()[0].get_text() == "left (10)"
    written = [text.get_text() for text in ax.texts]
    assert written[:3] == ["20", "0", "80"]


def test_without_meaning_codes_are_in_their_own_order() -> None:
    ax = confusion_matrix(COUNTS).axes[0]
    assert [label.get_text()[0] for label in ax.get_xticklabels()] == ["0", "1", "2"]


def test_what_is_no_table_is_refused() -> None:
    for wrong in (COUNTS[:4], 0 * COUNTS):
        with pytest.raises(WorkshopError, match="counts must be"):
            confusion_matrix(wrong)
    with pytest.raises(WorkshopError, match="3 codes need as many meanings, got 2"):
        confusion_matrix(COUNTS, ["left", "right"])

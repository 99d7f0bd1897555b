"""Pictures of latent actions: which code comes with which key."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from workshop_lib.data.actions import MERGED_NAMES
from workshop_lib.errors import WorkshopError
from workshop_lib.media.plots import figure_with_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DARK = 0.55  # shares above it are written in white


def confusion_matrix(counts: ArrayLike, meaning: Sequence[str] | None = None) -> Figure:
    """For each action the share of its transitions that got each code, in percent.

    counts: int (6, K), an action of MERGED_NAMES in each row. meaning: (K,), what each code stands
        for, written under it; codes of one meaning stand side by side.

    Raises WorkshopError for counts of another shape, and if there are none.
    """
    table = np.asarray(counts, dtype=np.float64)
    rows = len(MERGED_NAMES)
    if table.ndim != 2 or len(table) != rows or table.sum() <= 0:
        raise WorkshopError(f"counts must be ({rows}, K) with something counted, got {table.shape}")
    names = list(meaning) if meaning is not None else [""] * table.shape[1]
    if len(names) != table.shape[1]:
        raise WorkshopError(f"{table.shape[1]} codes need as many meanings, got {len(names)}")
    order = sorted(range(len(names)), key=lambda k: [*MERGED_NAMES, ""].index(names[k]))
    total = table.sum(axis=1, keepdims=True)
    share = (table / np.maximum(total, 1))[:, order]
    used = table.sum(axis=0)[order] / table.sum()
    with figure_with_axes(2.2 + 0.95 * len(order), 4.4) as (figure, axes):
        ax = axes[0]
        ax.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for row in range(rows):
            for column in range(len(order)):
                ax.text(
                    column, row, f"{100 * share[row, column]:.0f}", ha="center", va="center",
                    color="white" if share[row, column] > DARK else "black",
                )  # fmt: skip
        pressed = zip(MERGED_NAMES, total[:, 0], strict=True)
        ax.set_yticks(range(rows), [f"{name} ({int(count)})" for name, count in pressed])
        labels = [f"{k}\n{names[k]}\n{100 * u:.0f}%" for k, u in zip(order, used, strict=True)]
        ax.set_xticks(range(len(order)), labels)
        ax.set(xlabel="code, what it stands for, its share of all", ylabel="pressed (how often)")
        ax.set_title("which code comes with which key, in percent of a row")
        ax.grid(visible=False)
    return figure

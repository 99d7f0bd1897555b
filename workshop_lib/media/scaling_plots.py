"""The picture of a scaling study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from workshop_lib.media.plots import PALETTE, QUIET, figure_with_axes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def scaling_plot(result: Mapping[str, Any]) -> Figure:
    """Held-out loss against arithmetic, a line for each size; and, when all is spent, against size.

    result: what `workshop scaling` writes.
    """
    from matplotlib.ticker import NullFormatter

    runs = sorted(result["runs"], key=lambda run: run["parameters"])
    law = result.get("fit")
    with figure_with_axes(10.4, 4.0, columns=2) as (figure, axes):
        for i, run in enumerate(runs):
            flops = np.array(run["steps"]) * run["flops_per_step"]
            label = f"{run['parameters'] / 1e3:,.0f} k"
            axes[0].plot(flops, run["loss"], color=PALETTE[i % len(PALETTE)], lw=1.6, label=label)
        sizes = np.array([run["parameters"] for run in runs], dtype=float)
        last = np.array([run["loss"][-1] for run in runs])
        if law:
            reach = np.geomspace(sizes.min() / 1.2, sizes.max() * 1.2, 50)
            text = f"{law['A']:.2g} · N$^{{-{law['alpha']:.2f}}}$"
            axes[1].plot(reach, law["A"] * reach ** -law["alpha"], "--", color=QUIET, label=text)
        for i, (size, loss) in enumerate(zip(sizes, last, strict=True)):
            fitted = law is None or i < law["points"]
            color = PALETTE[i % len(PALETTE)]
            axes[1].plot(
                size, loss, "o", ms=8, color=color, mfc=color if fitted else "white", zorder=3
            )
        for ax in axes:
            ax.set(xscale="log", yscale="log")
            ax.set_ylabel("held-out loss")
            plain_ticks(ax.yaxis, axes[0].get_ylim())
            ax.xaxis.set_minor_formatter(NullFormatter())
        axes[0].set(xlabel="FLOPs spent on training", title="On the way")
        axes[0].legend(title="parameters", fontsize=9)
        axes[1].set(xlabel="parameters N", title="When all have spent the same")
        if law:
            axes[1].legend()
    return figure


def plain_ticks(axis: Any, limits: tuple[float, float]) -> None:
    """Numbers as they are on a logarithmic axis, where the decades are too far apart to help."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    narrow = limits[1] / max(limits[0], 1e-12) < 30
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())

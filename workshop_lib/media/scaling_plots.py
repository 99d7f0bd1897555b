"""The pictures of a scaling study."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from workshop_lib.media.plots import PALETTE, QUIET, figure_with_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINES, MARKS = ("-", "--", ":"), ("o", "s", "^")
Runs = list[Mapping[str, Any]]


def scaling_plot(result: Mapping[str, Any]) -> Figure:
    """The held-out measure against arithmetic, a line for each size and series, with the floors
    that it comes near; and, when all is spent, against size, with the laws.

    result: what `workshop scaling` writes; it may do without fits.
    """
    series, colors = _in_order(result["runs"])
    with figure_with_axes(10.4, 4.0, columns=2) as (figure, axes):
        _on_the_way(axes[0], series, colors)
        _at_the_end(axes[1], series, colors, result.get("fits", {}))
        for ax in axes:
            plain_ticks(ax.yaxis, axes[0].get_ylim())
            ax.set_ylabel(_measure(result))
    return figure


def floor_plot(result: Mapping[str, Any]) -> Figure:
    """What each run reached, over the width of its last layer, and the floors of that width.

    result: what `workshop scaling` writes, of runs that have a floor.
    """
    series, colors = _in_order(result["runs"])
    with figure_with_axes(7.4, 4.0) as (figure, (ax,)):
        styles = zip(series.items(), cycle(LINES), cycle(MARKS), strict=False)
        for (name, runs), line, mark in styles:
            widths = [run["width"] for run in runs]
            floors = [run["floor"] for run in runs]
            ax.plot(widths, floors, line, color=QUIET, label=f"floor of {name}", zorder=1)
            for run in runs:
                _point(ax, run["width"], run, mark, colors)
            ax.plot([], [], mark, color="black", label=name)
        ax.set(xlabel="width of the last layer", title="What a width cannot say")
        ax.set_ylabel(_measure(result))
        ax.set_ylim(bottom=0)
        ax.set_xticks(sorted({run["width"] for run in result["runs"]}))
        ax.legend()
    return figure


def _in_order(every: Runs) -> tuple[dict[str, Runs], dict[int, str]]:
    """The runs of each series, by size, and a color for each size."""
    series: dict[str, Runs] = {run.get("series", ""): [] for run in every}
    ordered = sorted(every, key=lambda run: run["parameters"])
    for run in ordered:
        series[run.get("series", "")].append(run)
    sizes = dict.fromkeys(run["parameters"] for run in ordered)
    return series, dict(zip(sizes, cycle(PALETTE), strict=False))


def _measure(result: Mapping[str, Any]) -> str:
    return f"held-out {result.get('study', {}).get('measure', 'loss')}"


def _on_the_way(ax: Axes, series: dict[str, Runs], colors: dict[int, str]) -> None:
    from matplotlib.lines import Line2D

    for runs, line in zip(series.values(), cycle(LINES), strict=False):
        for run in runs:
            flops = np.array(run["steps"]) * run["flops_per_step"]
            ax.plot(flops, run["loss"], line, color=colors[run["parameters"]], lw=1.6)
    ax.set(xscale="log", yscale="log", xlabel="FLOPs spent on training", title="On the way")
    lowest, _ = limits = ax.get_ylim()
    for run in (run for runs in series.values() for run in runs):
        if (run.get("floor") or 0) > lowest:
            ax.axhline(run["floor"], color=colors[run["parameters"]], ls=":", lw=1)
    ax.set_ylim(limits)
    lines = [
        Line2D([], [], color=color, lw=1.6, label=f"{n / 1e3:,.0f} k")
        for n, color in colors.items()
    ]
    if len(series) > 1:
        for name, line in zip(series, cycle(LINES), strict=False):
            lines.append(Line2D([], [], color="black", ls=line, lw=1.6, label=name))
    ax.legend(handles=lines, title="parameters", fontsize=9)


def _at_the_end(
    ax: Axes, series: dict[str, Runs], colors: dict[int, str], fits: Mapping[str, Any]
) -> None:
    from matplotlib.ticker import NullFormatter

    styles = zip(series.items(), cycle(LINES), cycle(MARKS), strict=False)
    for (name, runs), line, mark in styles:
        law = fits.get(name)
        ordered = [run["parameters"] for run in runs]
        if law:
            reach = np.geomspace(min(ordered) / 1.2, max(ordered) * 1.2, 50)
            text = f"{law['A']:.3g} · N$^{{-{law['alpha']:.2f}}}$" + (name and f" for {name}")
            ax.plot(reach, law["A"] * reach ** -law["alpha"], line, color=QUIET, label=text)
        branch = law["points"] if law else 1  # without a law the smallest is the best
        for i, run in enumerate(runs):
            fitted = not fits or i < branch
            _point(ax, run["parameters"], run, mark, colors, fitted)
    ax.set(xscale="log", yscale="log", xlabel="parameters N", title="When all have spent the same")
    ax.xaxis.set_minor_formatter(NullFormatter())
    if fits:
        ax.legend()


def _point(
    ax: Axes,
    x: float,
    run: Mapping[str, Any],
    mark: str,
    colors: dict[int, str],
    filled: bool = True,
) -> None:
    color = colors[run["parameters"]]
    face = color if filled else "white"
    ax.plot(x, run["loss"][-1], mark, ms=8, color=color, mfc=face, zorder=3)


def plain_ticks(axis: Any, limits: tuple[float, float]) -> None:
    """Numbers as they are on a logarithmic axis, where the decades are too far apart to help."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    narrow = limits[1] / max(limits[0], 1e-12) < 30
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())

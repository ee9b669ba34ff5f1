"""Comparisons: measured and published values, and curves of several methods."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from metarun.metric import Metric
from metarun.report.figures.canvas import BAND, BESIDE, COLOURS, INTERVALS, LEGEND, SMALL, Numbers, colour_scale, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def beside_published(
    rows: Mapping[str, tuple[float, float | None, tuple[float | None, float | None] | None]], metric: Metric
) -> "Figure":
    """One line per row: the measured value with its interval, and the published value with its interval if it is printed."""
    figure, (ax,) = new_figure(1, 1, width=7.0, height=1.0 + 0.32 * len(rows))
    drawn = set[str]()

    def point(label: str, mean: float, ci: float | None, place: float, colour: str, marker: str) -> None:
        named = None if label in drawn else label  # one legend entry per label
        ax.errorbar(mean, place, xerr=ci, label=named, **INTERVALS | {"color": colour, "marker": marker})
        drawn.add(label)

    for place, (mean, ci, published) in enumerate(rows.values()):
        if published is not None and published[0] is not None:
            point("published", published[0], published[1], place + 0.15, COLOURS[2], "s")
        point("measured", mean, ci, place - 0.15, COLOURS[3], "o")
    ax.set_yticks(range(len(rows)), list(rows), **SMALL)
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel=f"{metric.label}, 95 % interval")
    ax.legend(**BESIDE)
    return figure


def curves(panels: Mapping[str, Sequence[tuple[str, Numbers, Numbers, Numbers]]], metric: Metric) -> "Figure":
    """One panel per horizontal axis, two in a row: named curves, each with x, mean and half-width of its band."""
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    names = list(dict.fromkeys(name for panel in panels.values() for name, *_ in panel))
    legend = 0.15 * -(-len(names) // columns)  # inches
    figure, grid = new_figure(columns, rows, width=5.5, height=3.2 + legend / rows)
    colours = dict(zip(names, colour_scale(len(names)), strict=True))
    axes = np.ravel(grid)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    for ax, (axis, panel) in zip(axes, panels.items(), strict=False):
        for name, x, mean, ci in panel:
            ax.plot(x, mean, color=colours[name], linewidth=1.2, marker="o" if len(x) < 12 else None, markersize=3, label=name)
            ax.fill_between(x, mean - ci, mean + ci, color=colours[name], **BAND)
        ax.set(xlabel=axis, ylabel=metric.label)
        if metric.heavy_tailed and all((mean > 0).all() for _, _, mean, _ in panel):
            ax.set_yscale("log")
    lines = {line.get_label(): line for ax in axes for line in ax.get_lines()}
    short = [textwrap.shorten(str(name), 90, placeholder=" …") for name in lines]
    figure.legend(lines.values(), short, loc="outside lower center", ncols=columns, **LEGEND)
    return figure

"""Continual learning: the matrix R, its columns as curves, and online scores."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from metarun.metric import Metric
from metarun.report.figures.canvas import BESIDE, CURVE, DOTTED, INK, SLANTED, SMALL, colour_map, colour_scale, new_figure, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def stage_matrix(R: Sequence[Sequence[float | None]], stages: Sequence[str], metric: Metric) -> "Figure":
    """R as a heat map: one row per point in time, one column per stage."""
    values = np.array(R, dtype=np.float64)
    figure, (ax,) = new_figure(1, 1, width=1.8 + 0.9 * len(stages), height=1.5 + 0.6 * len(values))
    image = ax.imshow(values, cmap=colour_map(metric), aspect="auto")
    ax.grid(visible=False)
    low, high = np.nanmin(values), np.nanmax(values)
    for (i, j), value in np.ndenumerate(values):
        dark = (value - low) / max(high - low, 1e-12) < 0.5
        colour = "white" if dark == metric.higher_is_better else "black"
        ax.text(j, i, f"{value:.3g}", ha="center", va="center", color=colour, **SMALL)
    ax.set_xticks(range(len(stages)), stages, **SLANTED)
    after = [f"after {name}" for name in stages] if len(values) > len(stages) else ["after the stream"]
    ax.set_yticks(range(len(values)), ["untrained", *after], **SMALL)
    ax.set_xlabel("tested on")
    figure.colorbar(image, ax=ax, label=metric.name)
    return figure


def stage_matrices(
    matrices: Mapping[str, Mapping[str, Sequence[Sequence[float | None]]]], metrics: Mapping[str, Metric]
) -> "Figure":
    """R of many runs, one panel each; rows of a panel are points in time, columns are stages.

    Args:
        matrices: R by row of the figure, then by column. The panels of a row share one scale, logarithmic for a heavy-tailed
            metric.
        metrics: of each row.
    """
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.ticker import NullFormatter

    columns = list(dict.fromkeys(name for row in matrices.values() for name in row))
    titles = {title: wrapped(title, 26) for title in matrices}
    heads = {name: wrapped(name, 16) for name in columns}
    # In inches, for text of 8 points; panels keep their size whatever the titles, names and colour bars need.
    label = 0.07 * max((len(line) for title in titles.values() for line in title.splitlines()), default=0)
    tall = max(1.0, 0.14 * max(title.count("\n") + 1 for title in titles.values()))
    head = 0.1 + 0.14 * max(name.count("\n") + 1 for name in heads.values())
    width, height = 1.1 + (label + 0.9) / len(columns), tall + 0.15 + head / len(matrices)
    figure, axes = new_figure(len(columns), len(matrices), width=width, height=height)
    for panels, (title, row) in zip(np.reshape(axes, (len(matrices), len(columns))), matrices.items(), strict=True):
        values = {name: np.array(R, dtype=np.float64) for name, R in row.items()}
        low, high = (edge([edge(R) for R in values.values()]) for edge in (np.nanmin, np.nanmax))
        metric = metrics[title]
        scale = LogNorm(max(low, 1e-6), high) if metric.heavy_tailed else Normalize(low, high)
        for ax, name in zip(panels, columns, strict=True):
            ax.grid(visible=False)
            ax.set_xticks([])
            ax.set_yticks([])
            if ax.get_subplotspec().is_first_row():
                ax.set_title(heads[name], **SMALL)
            if name in values:
                image = ax.imshow(values[name], cmap=colour_map(metric), norm=scale, aspect="auto")
            else:
                ax.spines[:].set_visible(False)
        panels[0].set_ylabel(titles[title], rotation=0, ha="right", va="center", multialignment="left", **SMALL)
        bar = figure.colorbar(image, ax=list(panels))
        bar.set_label(metric.name, **SMALL)
        bar.ax.tick_params(labelsize=SMALL["fontsize"])
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
    return figure


def stage_curves(R: Sequence[Sequence[float | None]], stages: Sequence[str], metric: Metric) -> "Figure":
    """The score on each stage during training on successive stages: the columns of R, and their mean."""
    values = np.array(R, dtype=np.float64)
    figure, (ax,) = new_figure(1, 1, width=5.5)
    colours = colour_scale(len(stages))
    for j, (name, colour) in enumerate(zip(stages, colours, strict=True)):
        ax.plot(values[:, j], label=name, **CURVE | {"color": colour})
        ax.plot(j + 1, values[j + 1, j], "o", color=colour, markersize=7)  # just learned
    ax.plot(values.mean(1), label="mean", **DOTTED)
    ax.set_xticks(range(len(values)), ["untrained", *stages], **SLANTED)
    ax.set(xlabel="trained up to", ylabel=f"test {metric.name}")
    ax.legend(**BESIDE)
    return figure


def online(scores: Sequence[float], rounds: Sequence[int], stages: Sequence[str], metric: Metric) -> "Figure":
    """The smoothed score on each round's tasks before their labels were seen, on a background that shows the round's stage."""
    figure, (ax,) = new_figure(1, 1, width=9.0)
    width = max(len(scores) // 200, 1)
    smooth = np.convolve(scores, np.full(width, 1 / width), "valid")
    starts = [0, *(np.flatnonzero(np.diff(rounds)) + 1), len(rounds)]
    colours, named = colour_scale(len(stages)), set[int]()
    for first, end in pairwise(starts):
        stage = rounds[first]
        ax.axvspan(first, end, color=colours[stage], alpha=0.25, linewidth=0, label=None if stage in named else stages[stage])
        named.add(stage)
    ax.plot(np.arange(len(smooth)) + width - 1, smooth, color=INK, linewidth=0.8)
    if metric.heavy_tailed:
        ax.set_yscale("log")
    ax.set(xlabel="round", ylabel=f"online {metric.name}, mean of {width} rounds" if width > 1 else f"online {metric.name}")
    ax.legend(**BESIDE)
    return figure

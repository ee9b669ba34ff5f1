"""Figures from plain numbers. Imports no torch; matplotlib only when a figure is drawn, and never a window."""

import logging
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarun.files import json_lines, replacing
from metarun.metric import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it tells of the fonts it found

Numbers = NDArray[np.float64]

INK, GUIDE = "#222222", "#cccccc"
COLOURS = ("#bbbbbb", "#7fb3d5", "#2471a3", "#c0392b")
LINE = {"color": COLOURS[3], "linewidth": 1}
CURVE = LINE | {"marker": "o", "markersize": 3}
INTERVALS = CURVE | {"capsize": 2}
BAND = {"alpha": 0.2, "linewidth": 0}
DOTTED = {"color": INK, "linewidth": 1, "linestyle": ":"}
SMALL: dict[str, Any] = {"fontsize": 8}
SLANTED = SMALL | {"rotation": 30, "ha": "right"}
LEGEND = {"fontsize": 7, "frameon": False}
BESIDE = LEGEND | {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
"""A legend on the right of its panel."""


class Fit(NamedTuple):
    """One curve task: support and truth, and the predictions on the truth's inputs by inner step."""

    shots: int
    support_x: Numbers
    support_y: Numbers
    x: Numbers
    y: Numbers
    predictions: dict[int, Numbers]


def fits(examples: Sequence[Fit]) -> "Figure":
    """A panel for each number of shots: the truth, the support points, the prediction after each number of inner steps."""
    figure, axes = _figure(len(examples), 1, width=4.0)
    for ax, fit in zip(axes, examples, strict=True):
        ax.plot(fit.x, fit.y, label="truth", **DOTTED)
        several = len(fit.predictions) > 1
        for colour, (step, values) in zip(COLOURS, fit.predictions.items(), strict=False):
            label = f"{step} steps" if step != 1 else "1 step"
            ax.plot(fit.x, values, color=colour if several else COLOURS[-1], label=label if several else "prediction")
        ax.plot(fit.support_x, fit.support_y, "o", color=INK, markersize=4, label="support")
        ax.set_title(f"{fit.shots} shots", **SMALL)
        ax.set_xlabel("x")
        margin = 0.4 * max(float(np.ptp(fit.y)), 1e-3)
        ax.set_ylim(float(fit.y.min()) - margin, float(fit.y.max()) + margin)
    axes[0].set_ylabel("y")
    axes[-1].legend(**BESIDE)
    return figure


def learning_curve(metrics: Path, metric: Metric) -> "Figure":
    """Training loss and validation score by outer update, from a run's metrics.jsonl."""
    lines = json_lines(metrics)
    figure, (left, right) = _figure(2, 1, width=4.5)
    loss = [(line["step"], line["train/loss"]) for line in lines if line.get("train/loss") is not None]
    if loss:
        left.plot(*zip(*loss, strict=True), color=COLOURS[2], linewidth=0.8)
        values = [value for _, value in loss]
        if 0 < 10 * min(values) < max(values):
            left.set_yscale("log")
    left.set(xlabel="outer updates", ylabel="training loss")
    tag = f"val/{metric.name}"
    scores = [(line["step"], line[tag], line.get("ci95") or 0.0) for line in lines if line.get(tag) is not None]
    if scores:
        steps, mean, ci = (np.array(column) for column in zip(*scores, strict=True))
        right.plot(steps, mean, **LINE)
        right.fill_between(steps, mean - ci, mean + ci, color=COLOURS[3], **BAND)
    right.set(xlabel="outer updates", ylabel=f"validation {metric.name}, 95 % interval")
    return figure


def adaptation_curve(by_step: Sequence[dict[str, Any]], metric: Metric) -> "Figure":
    """The test score by inner step, with its interval over tasks."""
    figure, (ax,) = _figure(1, 1, width=4.5)
    known = [row for row in by_step if row["mean"] is not None]
    ax.errorbar(
        [row["step"] for row in known],
        [row["mean"] for row in known],
        yerr=[row["ci95"] or 0.0 for row in known],
        **INTERVALS,
    )
    ax.set(xlabel="inner steps", ylabel=f"test {metric.name}, 95 % interval")
    return figure


def stage_matrix(R: Sequence[Sequence[float | None]], stages: Sequence[str], metric: Metric) -> "Figure":
    """R as a heat map: a row for each point in time, a column for each stage."""
    values = np.array(R, dtype=np.float64)
    figure, (ax,) = _figure(1, 1, width=1.8 + 0.9 * len(stages), height=1.5 + 0.6 * len(values))
    image = ax.imshow(values, cmap=_map(metric), aspect="auto")
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


def stage_matrices(found: Mapping[str, Mapping[str, Sequence[Sequence[float | None]]]], metrics: Mapping[str, Metric]) -> "Figure":
    """R of many runs, a panel each: time goes down, stages go across.

    Args:
        found: R by row of the figure and, in it, by column. The panels of a row have one scale, a logarithmic one for a
            heavy-tailed metric.
        metrics: of each row.
    """
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.ticker import NullFormatter

    columns = list(dict.fromkeys(name for row in found.values() for name in row))
    titles = {title: _wrapped(title, 26) for title in found}
    heads = {name: _wrapped(name, 16) for name in columns}
    # Inches, for text of 8 points: panels keep their size beside the rows' titles, the methods' names and the colour bar.
    label = 0.07 * max((len(line) for title in titles.values() for line in title.splitlines()), default=0)
    tall = max(1.0, 0.14 * max(title.count("\n") + 1 for title in titles.values()))
    head = 0.1 + 0.14 * max(name.count("\n") + 1 for name in heads.values())
    width, height = 1.1 + (label + 0.9) / len(columns), tall + 0.15 + head / len(found)
    figure, axes = _figure(len(columns), len(found), width=width, height=height)
    for panels, (title, row) in zip(np.reshape(axes, (len(found), len(columns))), found.items(), strict=True):
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
                image = ax.imshow(values[name], cmap=_map(metric), norm=scale, aspect="auto")
            else:
                ax.spines[:].set_visible(False)
        panels[0].set_ylabel(titles[title], rotation=0, ha="right", va="center", multialignment="left", **SMALL)
        bar = figure.colorbar(image, ax=list(panels))
        bar.set_label(metric.name, **SMALL)
        bar.ax.tick_params(labelsize=SMALL["fontsize"])
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
    return figure


def beside_published(
    rows: Mapping[str, tuple[float, float | None, tuple[float | None, float | None] | None]], metric: Metric
) -> "Figure":
    """A line a row: the measured figure with its interval, and the published one with its own, where it is told."""
    figure, (ax,) = _figure(1, 1, width=7.0, height=1.0 + 0.32 * len(rows))
    drawn = set[str]()

    def point(label: str, mean: float, ci: float | None, place: float, colour: str, marker: str) -> None:
        named = None if label in drawn else label  # once in the legend
        ax.errorbar(mean, place, xerr=ci, label=named, **INTERVALS | {"color": colour, "marker": marker})
        drawn.add(label)

    for place, (mean, ci, told) in enumerate(rows.values()):
        if told is not None and told[0] is not None:
            point("published", told[0], told[1], place + 0.15, COLOURS[2], "s")
        point("measured", mean, ci, place - 0.15, COLOURS[3], "o")
    ax.set_yticks(range(len(rows)), list(rows), **SMALL)
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel=f"{metric.label}, 95 % interval")
    ax.legend(**BESIDE)
    return figure


def curves(panels: Mapping[str, Sequence[tuple[str, Numbers, Numbers, Numbers]]], metric: Metric) -> "Figure":
    """A panel a horizontal axis, two in a row: curves by name, each x, mean and half the width of its band."""
    columns = min(len(panels), 2)
    rows = -(-len(panels) // columns)
    names = list(dict.fromkeys(name for panel in panels.values() for name, *_ in panel))
    legend = 0.15 * -(-len(names) // columns)  # inches
    figure, grid = _figure(columns, rows, width=5.5, height=3.2 + legend / rows)
    colours = dict(zip(names, _colours(len(names)), strict=True))
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


def presentations(rows: Sequence[dict[str, Any]], ways: int) -> "Figure":
    """Accuracy by how often the class has been presented, with its interval over tasks, and chance."""
    figure, (ax,) = _figure(1, 1, width=4.5)
    number, mean, ci = (np.array([row[key] for row in rows], np.float64) for key in ("presentation", "mean", "ci95"))
    ax.errorbar(number, mean, yerr=ci, **INTERVALS)
    ax.axhline(1 / ways, **DOTTED)
    ax.text(number[-1], 1 / ways, "chance", ha="right", va="bottom", **SMALL)
    ax.set(xlabel="presentation of the class", ylabel="test accuracy, 95 % interval", ylim=(0, 1))
    return figure


def by_length(rows: Sequence[dict[str, Any]], metric: Metric) -> "Figure":
    """The score on what has been learned so far, by the length of the stream, with its interval over streams."""
    figure, (ax,) = _figure(1, 1, width=4.5)
    length, mean, ci = (np.array([row[key] for row in rows], np.float64) for key in ("length", "mean", "ci95"))
    ax.errorbar(length, mean, yerr=np.nan_to_num(ci), **INTERVALS)
    ax.set(xlabel="classes or functions so far", ylabel=f"test {metric.name} on them, 95 % interval")
    return figure


def task_vectors(components: Numbers, parameters: Mapping[str, Numbers]) -> "Figure":
    """The first two principal components of task vectors, (tasks, 2 or more), a panel for each parameter that colours them."""
    figure, axes = _figure(max(len(parameters), 1), 1, width=4.0)
    for ax in axes:
        ax.set(xlabel="first component")
    if not parameters:
        axes[0].scatter(components[:, 0], components[:, 1], color=COLOURS[2], s=4)
    for ax, (name, values) in zip(axes, parameters.items(), strict=False):
        points = ax.scatter(components[:, 0], components[:, 1], c=values, s=4, cmap="viridis")
        figure.colorbar(points, ax=ax, label=name)
    axes[0].set_ylabel("second component")
    return figure


def stage_curves(R: Sequence[Sequence[float | None]], stages: Sequence[str], metric: Metric) -> "Figure":
    """How each stage's score goes as the learner is trained on one stage after another: R's columns, and their mean."""
    values = np.array(R, dtype=np.float64)
    figure, (ax,) = _figure(1, 1, width=5.5)
    colours = _colours(len(stages))
    for j, (name, colour) in enumerate(zip(stages, colours, strict=True)):
        ax.plot(values[:, j], label=name, **CURVE | {"color": colour})
        ax.plot(j + 1, values[j + 1, j], "o", color=colour, markersize=7)  # just learned
    ax.plot(values.mean(1), label="mean", **DOTTED)
    ax.set_xticks(range(len(values)), ["untrained", *stages], **SLANTED)
    ax.set(xlabel="trained up to", ylabel=f"test {metric.name}")
    ax.legend(**BESIDE)
    return figure


def online(scores: Sequence[float], rounds: Sequence[int], stages: Sequence[str], metric: Metric) -> "Figure":
    """The score of each round's tasks before their labels were seen, smoothed, over the stage that it came from."""
    figure, (ax,) = _figure(1, 1, width=9.0)
    width = max(len(scores) // 200, 1)
    smooth = np.convolve(scores, np.full(width, 1 / width), "valid")
    starts = [0, *(np.flatnonzero(np.diff(rounds)) + 1), len(rounds)]
    colours, named = _colours(len(stages)), set[int]()
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


def tasks(panels: Mapping[str, Any], title: str) -> "Figure":
    """A panel a task, three in a row: a mosaic (height, width, channels), or the points of a curve's support and queries."""
    rows = -(-len(panels) // 3)
    figure, grid = _figure(min(len(panels), 3), rows, width=4.5, height=3.0)
    figure.suptitle(title, **SMALL)
    for ax, (name, panel) in zip(np.ravel(grid), panels.items(), strict=False):
        ax.set_title(name, **SMALL)
        if isinstance(panel, np.ndarray):
            ax.imshow(panel, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set_axis_off()
        else:
            for points, marker, label in zip(panel, ("o", "x"), ("support", "query"), strict=True):
                ax.plot(points[:, 0], points[:, 1], marker, color=COLOURS[3] if marker == "o" else COLOURS[2], label=label)
            ax.legend(**LEGEND)
    return figure


def save(figure: "Figure", path: Path) -> None:
    """Write a PNG to ``path``."""
    layout = figure.get_layout_engine()
    if layout is not None:  # once: saving would lay out twice, and that is most of the time
        layout.execute(figure)
        figure.set_layout_engine("none")
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=120)


def close(figure: "Figure") -> None:
    """Free a figure's memory."""
    figure.clear()


def _wrapped(text: str, width: int) -> str:
    """Its lines, each broken where it is longer than ``width``."""
    return "\n".join(part for line in text.splitlines() for part in textwrap.wrap(line, width) or [""])


def _map(metric: Metric) -> str:
    """A colour map that is brightest where the learner is best."""
    return "viridis" if metric.higher_is_better else "viridis_r"


def _colours(count: int) -> list[Any]:
    """As many colours along one scale."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.9 * i / max(count - 1, 1)) for i in range(count)]


def _figure(columns: int, rows: int, *, width: float, height: float = 3.2) -> "tuple[Figure, Any]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color=GUIDE, linewidth=0.4)
        ax.set_axisbelow(True)
    return figure, axes[0] if rows == 1 else axes

"""Scores of one run: by outer update, by inner step, by presentation of a class, by length of a stream."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from metarun.files import json_lines
from metarun.metric import Metric
from metarun.report.figures.canvas import BAND, COLOURS, DOTTED, INTERVALS, LINE, SMALL, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def learning_curve(metrics: Path, metric: Metric) -> "Figure":
    """Training loss and validation score by outer update, from a run's metrics.jsonl."""
    lines = json_lines(metrics)
    figure, (left, right) = new_figure(2, 1, width=4.5)
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
    figure, (ax,) = new_figure(1, 1, width=4.5)
    known = [row for row in by_step if row["mean"] is not None]
    ax.errorbar(
        [row["step"] for row in known],
        [row["mean"] for row in known],
        yerr=[row["ci95"] or 0.0 for row in known],
        **INTERVALS,
    )
    ax.set(xlabel="inner steps", ylabel=f"test {metric.name}, 95 % interval")
    return figure


def presentations(rows: Sequence[dict[str, Any]], ways: int) -> "Figure":
    """Accuracy by presentation of the class, with intervals over tasks and the chance level."""
    figure, (ax,) = new_figure(1, 1, width=4.5)
    number, mean, ci = (np.array([row[key] for row in rows], np.float64) for key in ("presentation", "mean", "ci95"))
    ax.errorbar(number, mean, yerr=ci, **INTERVALS)
    ax.axhline(1 / ways, **DOTTED)
    ax.text(number[-1], 1 / ways, "chance", ha="right", va="bottom", **SMALL)
    ax.set(xlabel="presentation of the class", ylabel="test accuracy, 95 % interval", ylim=(0, 1))
    return figure


def by_length(rows: Sequence[dict[str, Any]], metric: Metric) -> "Figure":
    """The score on everything learned so far, by length of the stream, with intervals over streams."""
    figure, (ax,) = new_figure(1, 1, width=4.5)
    length, mean, ci = (np.array([row[key] for row in rows], np.float64) for key in ("length", "mean", "ci95"))
    ax.errorbar(length, mean, yerr=np.nan_to_num(ci), **INTERVALS)
    ax.set(xlabel="classes or functions so far", ylabel=f"test {metric.name} on them, 95 % interval")
    return figure

"""Scores of single runs and over seeds, as shown in tables. Imports no torch."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from metarun.report.published import Published
from metarun.report.runs import Run
from metarun.report.statistics import over_seeds


class Measure(NamedTuple):
    """A mean with its 95 % interval, if any, followed by ``mark``."""

    mean: float
    ci95: float | None
    digits: int = 2
    sign: str = ""
    mark: str = ""

    def text(self, plus_minus: str = "±") -> str:
        interval = "" if self.ci95 is None else f" {plus_minus} {self.ci95:.{self.digits}f}"
        return f"{self.mean:{self.sign}.{self.digits}f}{interval}{self.mark}"


Cell = str | Measure
"""Content of a table cell."""


def printed(published: Published) -> Measure:
    """A published value as tables show it; a question mark if it was not read in the paper.

    Raises:
        ValueError: the paper prints no value.
    """
    if published.value is None:
        raise ValueError("expected a published value; the paper has curves alone")
    mark = "" if published.verified == "paper" else " ?"
    return Measure(published.value, published.ci95, published.digits, mark=mark)


def text(cell: Cell) -> str:
    """A cell as text."""
    return cell if isinstance(cell, str) else cell.text()


def average(intervals: Iterable[float | None]) -> float | None:
    """The mean of intervals over seeds; None if there are none, or one is missing."""
    values = list(intervals)
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present and len(present) == len(values) else None


def distinct(values: Iterable[str]) -> str:
    """The different values among ``values``, in order, without empty ones."""
    return ", ".join(dict.fromkeys(value for value in values if value))


def score(run: Run, figure: str) -> tuple[float | None, float | None]:
    """A score of a run with its interval over tasks, both as shown: accuracies in per cent.

    Args:
        run: a finished run.
        figure: `test`, `step N`, `presentation N`, `length N`, `last stage`, `online`, or a stream metric such as `bwt`.

    Returns:
        Mean and interval; None if the run has no such score, NaN if the mean is not finite.
    """
    test, stream = run.results["test"], run.results.get("continual") or {}
    kind, _, number = figure.partition(" ")
    summary: Mapping[str, Any] = {}
    if figure == "test":
        summary = run.test
    elif number.isdigit():
        summary = next((row for row in test.get(f"by_{kind}", []) if row[kind] == int(number)), {})
    elif figure == "last stage":
        summary = {"mean": stream["R"][-1][-1]} if stream else {}
    elif figure == "online":
        summary = {"mean": stream["online"][run.metric.name]} if stream.get("online") else {}
    elif stream.get(figure) is not None:
        summary = {"mean": stream[figure], "ci95": run.test.get("ci95") if figure == "acc" else None}
    if "mean" not in summary:
        return None, None
    mean, ci = summary["mean"], summary.get("ci95")
    return float("nan") if mean is None else run.metric.scale * mean, None if ci is None else run.metric.scale * ci


def mean_of(values: Iterable[float | None], digits: int, sign: str = "") -> Cell:
    """Mean over seeds with its interval; an empty text if there are no values, or one is missing."""
    values = list(values)
    present = [value for value in values if value is not None]
    if not present or len(present) < len(values):
        return ""
    mean, ci = over_seeds(present)
    return Measure(mean, ci, digits, sign) if np.isfinite(mean) else "not finite"

"""Scores of runs, one at a time and over seeds, as tables show them. Imports no torch."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from metarun.report.runs import Run
from metarun.report.statistics import over_seeds


class Measure(NamedTuple):
    """A mean with its 95 % interval, if there is one; ``mark`` follows it."""

    mean: float
    ci95: float | None
    digits: int = 2
    sign: str = ""
    mark: str = ""

    def text(self, plus_minus: str = "±") -> str:
        interval = "" if self.ci95 is None else f" {plus_minus} {self.ci95:.{self.digits}f}"
        return f"{self.mean:{self.sign}.{self.digits}f}{interval}{self.mark}"


Cell = str | Measure
"""What a table shows in one place."""


def score(run: Run, figure: str) -> tuple[float | None, float | None]:
    """A figure of a run with its interval over tasks, both as shown: accuracies in per cent.

    Args:
        run: a finished run.
        figure: `test`, `step N`, `presentation N`, `length N`, `last stage`, `online`, or a stream metric such as `bwt`.

    Returns:
        Mean and interval; None where the run has none, NaN where the mean is not finite.
    """
    test, stream = run.results["test"], run.results.get("continual") or {}
    kind, _, number = figure.partition(" ")
    found: Mapping[str, Any] = {}
    if figure == "test":
        found = run.test
    elif number.isdigit():
        found = next((row for row in test.get(f"by_{kind}", []) if row[kind] == int(number)), {})
    elif figure == "last stage":
        found = {"mean": stream["R"][-1][-1]} if stream else {}
    elif figure == "online":
        found = {"mean": stream["online"][run.metric.name]} if stream.get("online") else {}
    elif stream.get(figure) is not None:
        found = {"mean": stream[figure], "ci95": run.test.get("ci95") if figure == "acc" else None}
    if "mean" not in found:
        return None, None
    mean, ci = found["mean"], found.get("ci95")
    return float("nan") if mean is None else run.metric.scale * mean, None if ci is None else run.metric.scale * ci


def mean_of(values: Iterable[float | None], digits: int, sign: str = "") -> Cell:
    """Mean over seeds with its interval; an empty text where there is no value, or one is missing."""
    known = list(values)
    if not known or any(value is None for value in known):
        return ""
    mean, ci = over_seeds([value for value in known if value is not None])
    return Measure(mean, ci, digits, sign) if np.isfinite(mean) else "not finite"

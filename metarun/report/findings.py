"""What a learner reports about the test tasks besides scores: rows of results.json and a picture. Imports no torch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metarun.metric import Metric
from metarun.report import figures, vectors
from metarun.report.statistics import over_tasks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Numbers = NDArray[np.float64]
Probes = Mapping[str, Numbers]
"""Outputs of `Algorithm.probe` for all test tasks, by name, with the task axis first."""

PRESENTATIONS = 10
"""Number of presentations of a class to report (Santoro et al. 2016, table 1)."""


@dataclass(frozen=True)
class Finding:
    """One result of a learner's probe.

    Attributes:
        key: its key under `test` in results.json.
        rows: the value of that key.
        picture: name of its picture among the run's figures.
        draw: draws the picture.
        embedding: vectors (tasks, size) for TensorBoard's projector, and the values that colour them, (tasks,) each, by name.
    """

    key: str
    rows: list[dict[str, Any]]
    picture: str
    draw: Callable[[], "Figure"]
    embedding: tuple[Numbers, Mapping[str, Numbers]] | None = None


def by_presentation(scores: Numbers, ways: int) -> Finding:
    """Accuracies (tasks, presentations) at the first, second, … presentation of a class, one of ``ways``."""
    shown = scores[:, :PRESENTATIONS]
    rows = _rows("presentation", range(1, shown.shape[1] + 1), shown)
    return Finding("by_presentation", rows, "presentations", lambda: figures.presentations(rows, ways))


def by_length(scores: Numbers, lengths: Sequence[int], metric: Metric) -> Finding:
    """Scores (tasks, lengths) on all classes or functions learned so far, after each of the numbers in ``lengths``."""
    rows = _rows("length", lengths, scores)
    return Finding("by_length", rows, "lengths", lambda: figures.by_length(rows, metric))


def task_vectors(embedded: Numbers, parameters: Mapping[str, Numbers]) -> Finding:
    """Task vectors (tasks, size), and how well they predict the tasks' true parameters, (tasks,) each, without constant ones."""
    varying = {name: values for name, values in parameters.items() if np.ptp(values) > 0}
    rows = vectors.recovered(embedded, varying)

    def draw() -> "Figure":
        return figures.task_vectors(vectors.principal_components(embedded), varying)

    return Finding("task_vectors", rows, "tasks", draw, (embedded, varying))


def _rows(name: str, places: Sequence[int], scores: Numbers) -> list[dict[str, Any]]:
    """Mean and interval over tasks of each column of ``scores``."""
    summaries = zip(places, map(over_tasks, scores.T), strict=True)
    return [{name: place, "mean": summary["mean"], "ci95": summary["ci95"]} for place, summary in summaries]

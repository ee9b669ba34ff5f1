"""What a learner reports about the test tasks besides their scores: rows of results.json and a picture. Imports no torch."""

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
"""What `Algorithm.probe` gives for all test tasks, by name, the task axis first."""

PRESENTATIONS = 10
"""Presentations of a class that are reported (Santoro et al. 2016, table 1)."""


@dataclass(frozen=True)
class Finding:
    """One thing that a learner reports.

    Attributes:
        key: under `test` in results.json.
        rows: the value of that key.
        picture: name of the picture among the run's figures.
        draw: draws it.
        embedding: vectors (tasks, size) for TensorBoard's projector, and what colours them by name, (tasks,) each.
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
    """Scores (tasks, lengths) on the classes or functions seen so far, after each number of them in ``lengths``."""
    rows = _rows("length", lengths, scores)
    return Finding("by_length", rows, "lengths", lambda: figures.by_length(rows, metric))


def task_vectors(embedded: Numbers, parameters: Mapping[str, Numbers]) -> Finding:
    """Task vectors (tasks, size), and how well they tell the tasks' true parameters, (tasks,) each; constant ones are left out."""
    varying = {name: values for name, values in parameters.items() if np.ptp(values) > 0}
    rows = vectors.recovered(embedded, varying)

    def draw() -> "Figure":
        return figures.task_vectors(vectors.principal_components(embedded), varying)

    return Finding("task_vectors", rows, "tasks", draw, (embedded, varying))


def _rows(name: str, places: Sequence[int], scores: Numbers) -> list[dict[str, Any]]:
    """Mean and interval over tasks of each column of ``scores``."""
    found = zip(places, map(over_tasks, scores.T), strict=True)
    return [{name: place, "mean": of["mean"], "ci95": of["ci95"]} for place, of in found]

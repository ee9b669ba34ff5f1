"""Curves of methods over seeds, by updates, time, tasks and inner steps. Imports no torch."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarun.metric import Metric
from metarun.report.methods import Method
from metarun.report.statistics import t_quantile

Numbers = NDArray[np.float64]


class Curve(NamedTuple):
    """A score at ``x``, averaged over seeds, with its 95 % interval (0 for a single seed)."""

    name: str
    x: Numbers
    mean: Numbers
    ci95: Numbers


def learning_curve(method: Method, axis: str) -> Curve | None:
    """The validation score over seeds against `updates`, `seconds` or `tasks`; None without validation, and for streams."""
    tag = f"val/{method.metric.name}"
    rows: list[dict[int, tuple[float, float]]] = []
    for run in method.runs:
        tasks = run.results["protocol"]["train"]["tasks"]
        speeds = [(line["step"], line["time/tasks_per_second"]) for line in run.metrics if line.get("time/tasks_per_second")]
        scores = [(line["step"], line[tag]) for line in run.metrics if line.get(tag) is not None]
        if not scores or run.results.get("continual") or (axis == "seconds" and not speeds):
            return None
        clock = _clock(speeds, tasks)
        at = {step: {"updates": step, "tasks": step * tasks, "seconds": clock(step)}[axis] for step, _ in scores}
        rows.append({step: (at[step], value) for step, value in scores})
    steps = sorted(set.intersection(*(set(row) for row in rows)))
    if not steps:
        return None
    x = np.array([np.mean([row[step][0] for row in rows]) for step in steps])
    return Curve(method.name, x, *_band([[row[step][1] for row in rows] for step in steps], method.metric))


def adaptation_curve(method: Method) -> Curve | None:
    """The test score over seeds by inner step; None for learners without steps."""
    rows = [{row["step"]: row["mean"] for row in run.results["test"].get("by_step", [])} for run in method.runs]
    steps = [step for step in rows[0] if all(row.get(step) is not None for row in rows)]
    if len(steps) < 2:
        return None
    return Curve(method.name, np.array(steps, np.float64), *_band([[row[step] for row in rows] for step in steps], method.metric))


def _clock(speeds: Sequence[tuple[int, float]], tasks: int) -> Callable[[int], float]:
    """Seconds of training by step, from the mean speeds logged at some steps."""
    steps = np.array([0, *(step for step, _ in speeds)], np.float64)
    seconds = np.array([0, *(step * tasks / speed for step, speed in speeds)], np.float64)
    return lambda step: float(np.interp(step, steps, seconds))


def _band(values: Sequence[Sequence[float]], metric: Metric) -> tuple[Numbers, Numbers]:
    """Means over seeds and their 95 % intervals, for rows of values by seed, in the unit shown."""
    array = metric.scale * np.array(values, np.float64)
    count = array.shape[1]
    error = t_quantile(count - 1) * array.std(1, ddof=1) / count**0.5 if count > 1 else np.zeros(len(array))
    return array.mean(1), error

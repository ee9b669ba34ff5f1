"""Paired comparisons of methods tested on the same tasks. Imports no torch."""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from metarun.metric import Metric
from metarun.report.methods import Method
from metarun.report.scores import score
from metarun.report.statistics import Paired, paired


def tested_alike(methods: Sequence[Method]) -> list[list[Method]]:
    """Groups of methods with the same metric, connected by test tasks that two of them share."""
    groups: list[list[Method]] = []
    for method in methods:
        joined = [
            group
            for group in groups
            if group[0].metric == method.metric and any(method.tested_on() & other.tested_on() for other in group)
        ]
        groups = [group for group in groups if group not in joined] + [[*chain.from_iterable(joined), method]]
    return groups


def ranked(group: Sequence[Method]) -> list[Method]:
    """The methods from best to worst."""
    return sorted(group, key=lambda method: rank([score(run, "test")[0] for run in method.runs], method.metric))


def compare(a: Method, b: Method) -> Paired | None:
    """Paired test over the test tasks common to both; None: no such tasks, or a score that is not finite.

    If several runs of a method were tested on the same tasks, as on a fixed test set, each task counts once, with its mean score.
    """
    ours, theirs = a.scores_by_tasks(), b.scores_by_tasks()
    if ours is None or theirs is None:
        return None
    pairs = [(ours[digest], theirs[digest]) for digest in ours if digest in theirs]
    if not pairs or any(x.shape != y.shape for x, y in pairs):
        return None
    x, y = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    return paired(x, y) if len(x) > 1 else None


def rank(values: Sequence[float | None], metric: Metric) -> float:
    """Sort key of a method by the mean of its ``values``: the best first, means that are not finite last."""
    mean = float(np.mean([np.inf if value is None else value for value in values]))
    return -metric.sign * mean if np.isfinite(mean) else np.inf

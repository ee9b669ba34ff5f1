"""Meta-learning for a search: configurations that did well on similar earlier tasks are tried first.

Warm starts from similar tasks follow Feurer, Springenberg and Hutter 2015, with the meta-features of `algo.task_features`; further
proposals are ranked by a Gaussian process over tasks and configurations (Bardenet et al. 2013; Swersky et al. 2013).
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from metarun.config import ConfigError
from metarun.search.space import Dimension, places, values_at
from metarun.search.study import error_of
from metarun.tracking import RunFolder

Numbers = NDArray[np.float64]

SIMILAR, CANDIDATES, APART = 3, 512, 0.05
"""Number of similar tasks whose best configuration is tried; number of random candidates; smallest distance between proposals in
the unit cube."""

WIDTH, NOISE, WORST = 0.2, 0.05, 2.0
"""Length scale of the Gaussian process in the unit cube; its noise variance; upper limit of the log error ratios."""


@dataclass
class Task:
    """Earlier runs on one task: its features (F,), the points tried (n, dimensions) and their errors (n,)."""

    features: Numbers
    points: Numbers
    errors: Numbers


def experience(folder: Path, space: Sequence[Dimension], like: Mapping[str, Any], names: Sequence[str]) -> list[Task]:
    """The tasks of the finished runs under ``folder`` within ``space`` and with the `algo` and `cl` of ``like``.

    ``names`` are the expected features; tasks with other features are of another kind and are left out.
    """
    by_task: dict[str, list[tuple[list[float], Numbers, float]]] = defaultdict(list)
    for path in sorted(folder.rglob("results.json")):
        results = RunFolder(path.parent).results() or {}
        composed = path.parent / ".hydra" / "config.yaml"
        error, features = error_of(results), results.get("task_features")
        if error is None or features is None or list(features) != list(names) or not composed.is_file():
            continue
        if any(results.get(key) != like[key] for key in ("algo", "cl")):
            continue
        config = RunFolder(path.parent).configuration()
        point = places(space, {dimension.key: OmegaConf.select(config, dimension.key) for dimension in space})
        if point is not None:
            task = json.dumps(OmegaConf.to_container(config.data), sort_keys=True)
            by_task[task].append((list(features.values()), point, error))
    tasks = []
    for runs in by_task.values():
        vectors, points, errors = (np.array(column) for column in zip(*runs, strict=True))
        tasks.append(Task(vectors.mean(0), points, errors))
    return tasks


def proposals(tasks: Sequence[Task], features: Numbers, space: Sequence[Dimension], count: int, seed: int) -> list[dict[str, Any]]:
    """Up to ``count`` promising configurations for the task with ``features`` (F,).

    First the best one of each of the most similar tasks, in order of similarity; then those with the smallest predicted error.

    Raises:
        ConfigError: there are no tasks.
    """
    if not tasks:
        raise ConfigError(
            "search.warm_start: expected finished runs of this algorithm and method with these keys on similar tasks, found none"
        )
    all_features = np.array([task.features for task in tasks])
    scale = np.vstack([all_features, features]).std(0)
    scale[scale < 1e-9] = np.inf  # a constant feature carries no information
    distances = np.linalg.norm((all_features - features) / scale, axis=1)
    nearest = np.argsort(distances, kind="stable")[:SIMILAR]
    ranked = [tasks[i].points[tasks[i].errors.argmin()] for i in nearest]
    candidates = np.random.default_rng(seed).random((CANDIDATES, len(space)))
    expected = _expected(tasks, all_features / scale, features / scale, candidates)
    ranked += list(candidates[np.argsort(expected, kind="stable")])
    taken: list[Numbers] = []
    for point in ranked:
        if len(taken) < count and all(np.abs(point - other).max() > APART for other in taken):
            taken.append(point)
    return [values_at(space, point) for point in taken]


def _expected(tasks: Sequence[Task], known: Numbers, features: Numbers, candidates: Numbers) -> Numbers:
    """Predicted log ratio of each candidate's error to the task's smallest (n,), by a Gaussian process with a product kernel."""
    errors = [np.log(np.maximum(task.errors, 1e-12)) for task in tasks]
    ratios = np.concatenate([np.minimum(logs - logs.min(), WORST) for logs in errors])
    points = np.concatenate([task.points for task in tasks])
    rows = np.repeat(known, [len(task.errors) for task in tasks], axis=0)
    apart = np.linalg.norm(known - features, axis=1)
    width = float(np.median(apart)) or 1.0

    def kernel(a: Numbers, task_a: Numbers, b: Numbers, task_b: Numbers) -> Numbers:
        along = ((a[:, None] - b[None]) ** 2).sum(-1) / WIDTH**2
        between = ((task_a[:, None] - task_b[None]) ** 2).sum(-1) / width**2
        values: Numbers = np.exp(-0.5 * (along + between))
        return values

    gram = kernel(points, rows, points, rows) + NOISE * np.eye(len(points))
    here = np.repeat(features[None], len(candidates), axis=0)
    mean = ratios.mean()
    predicted: Numbers = mean + kernel(candidates, here, points, rows) @ np.linalg.solve(gram, ratios - mean)
    return predicted

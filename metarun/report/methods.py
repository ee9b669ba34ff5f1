"""Groups runs of the same configuration into named methods. Imports no torch."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metarun.metric import Metric
from metarun.report.runs import Run

Numbers = NDArray[np.float64]

UPDATES = "trainer.iterations"


@dataclass
class Method:
    """Runs of one configuration, one per seed."""

    name: str
    runs: list[Run]

    @property
    def metric(self) -> Metric:
        return self.runs[0].metric

    def tested_on(self) -> set[str]:
        """Digests of the test tasks of the runs that record them."""
        return {run.tested[0] for run in self.runs if run.tested}

    def scores_by_tasks(self) -> dict[str, Numbers] | None:
        """Task scores (tasks,) by digest of the test tasks, averaged over the runs tested on the same tasks.

        None if a run has no scores, or a score that is not finite.
        """
        by_digest: dict[str, list[Numbers]] = defaultdict(list)
        for run in self.runs:
            if run.tested is not None:
                if run.task_scores is None:
                    return None
                by_digest[run.tested[0]].append(run.task_scores)
        return {digest: np.mean(scores, 0) for digest, scores in by_digest.items()}


def methods(runs: Sequence[Run]) -> list[Method]:
    """Finished runs, grouped by configuration.

    A name consists of the algorithm, the data set if there are several, the overrides that not all commands with that algorithm
    and data set share, and `_protocol`.
    """
    finished = sorted((run for run in runs if run.finished), key=lambda run: str(run.path))
    named = [key for key in ("algo", "data") if len({run.results[key] for run in finished}) > 1] or ["algo"]
    trained: dict[str, set[int]] = defaultdict(set)
    alike: dict[tuple[str, ...], list[tuple[Run, list[str]]]] = defaultdict(list)
    for run in finished:
        trained[run.results["data"]].add(run.updates)
        alike[tuple(str(run.results[key]) for key in named)].append((run, run.changes(("algo", "data", UPDATES))))
    groups: dict[str, dict[int, Run]] = defaultdict(dict)
    for chosen, members in alike.items():
        common = set.intersection(*(set(changes) for _, changes in members))
        for run, changes in members:
            pairs = (change.partition("=") for change in changes if change not in common)
            own = (f"{key.rpartition('.')[2]}={value}" for key, _, value in pairs)
            groups[" ".join([*chosen, *own, *_protocol(run, trained[run.results["data"]])])][run.seed] = run
    return [Method(name, [by_seed[seed] for seed in sorted(by_seed)]) for name, by_seed in sorted(groups.items())]


def _protocol(run: Run, trained: set[int]) -> Iterator[str]:
    """The paper's row, a budget other than the full one, and the updates made if the command sets them or runs differ in them.

    ``trained``: the numbers of updates of all runs on the same data set; 0, for a learner without training, is ignored.
    """
    if "paper" in run.overrides:
        yield f"paper={run.overrides['paper']}"
    if run.budget != "full":
        yield f"budget={run.budget}"
    if run.updates and (UPDATES in run.overrides or len(trained - {0}) > 1):
        yield f"updates={run.updates}"

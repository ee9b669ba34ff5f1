"""Rows of tables: the runs of each cell of a table's sweep, by budget. Imports no torch."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from metarun.metric import ACCURACY, Metric
from metarun.report.published import Published, published
from metarun.report.runs import Run
from metarun.report.scores import Cell, average, mean_of, score
from metarun.report.sweeps import Sweep, published_name


@dataclass
class Row:
    """The runs of a cell under one budget."""

    labels: tuple[str, ...]
    """Values of the keys that distinguish cells."""
    runs: list[Run]
    """Finished runs, one per seed."""
    others: list[Run]
    """Unfinished runs, of seeds without a finished run."""
    figure: str
    """The score shown in the row, see `metarun.report.scores.score`."""
    published: Published | None
    budget: str
    changed: str
    """Departures of the runs from the table's protocol."""

    @property
    def metric(self) -> Metric:
        """Metric of the runs. A row without runs shows no value, so any metric will do."""
        return self.runs[0].metric if self.runs else ACCURACY

    def by_seed(self, figure: str) -> dict[int, float | None]:
        """A score by seed, see `metarun.report.scores.score`."""
        return {run.seed: score(run, figure)[0] for run in self.runs}

    def over_seeds(self, figure: str) -> Cell:
        """Mean over seeds with its interval; an empty text if a run has no such score, `not finite` if one is not finite."""
        return mean_of(self.by_seed(figure).values(), self.metric.digits)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the row's score over seeds (n - 1); None for a single seed, or if a run has no such score."""
        values = [value for value in self.by_seed(self.figure).values() if value is not None]
        return float(np.std(values, ddof=1)) if len(values) > 1 and len(values) == len(self.runs) else None

    @property
    def over_tasks(self) -> float | None:
        """The interval over test tasks within a seed, averaged over seeds."""
        return average(score(run, self.figure)[1] for run in self.runs)

    @property
    def state(self) -> str:
        """Which runs are missing or have failed, in a few words."""
        if not self.runs and not self.others:
            return "missing"
        counts: dict[str, list[str]] = defaultdict(list)
        for run in self.others:
            counts[run.status].append(" ".join(str(run.results.get("stopped", "")).split())[:60])
        return "; ".join(f"{len(whys)} {status}{f' ({whys[0]})' if whys[0] else ''}" for status, whys in counts.items())


def rows(sweep: Sweep, runs: Iterable[Run]) -> Iterator[Row]:
    """The rows of a table: for each cell of its sweep, one row per budget, set of changes and published value.

    The methods of a setting are adjacent.
    """
    keys = sweep.keys
    cells = dict(sweep.cells())
    members: dict[tuple[str, ...], list[Run]] = {values: [] for values in cells}
    for run in runs:
        values = tuple(str(run.overrides.get(key, run.results.get(key, ""))) for key in keys)
        if run.overrides.get("table") == sweep.name or ("paper" in keys and values in cells):
            members.setdefault(values, []).append(run)
    settings = list(dict.fromkeys(values[:-1] for values in members))
    for values, of_cell in sorted(members.items(), key=lambda cell: settings.index(cell[0][:-1])):
        choices = dict(zip(keys, values, strict=True))
        printed = published().get(published_name(sweep.data, choices), {})
        groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
        for run in of_cell:
            groups[run.budget, " ".join(run.changes(keys, cells.get(values, {})))].append(run)
        for (budget, changed), group in sorted(groups.items()) or [(("", ""), [])]:
            finished, others = _by_seed(group)
            for name in printed or ("test",):
                labels, figure = values, name
                if "paper" in choices:
                    labels = _paper_labels(choices["paper"], name)
                elif name in printed:
                    figure = "acc"
                yield Row(labels, finished, others, figure, printed.get(name), budget, changed)


def _by_seed(runs: Iterable[Run]) -> tuple[list[Run], list[Run]]:
    """One run per seed, in two lists: the finished runs by seed, and unfinished runs of seeds without a finished one."""
    chosen = {run.seed: run for run in sorted(runs, key=lambda run: (run.finished, str(run.path)))}
    finished = [run for _, run in sorted(chosen.items()) if run.finished]
    return finished, [run for run in chosen.values() if not run.finished]


def _paper_labels(paper: str, figure: str) -> tuple[str, ...]:
    """Algorithm, data set, cell and score of a paper's row such as `maml_omniglot_5way_1shot`."""
    algo, data, cell = [*paper.split("_", 2), ""][:3]
    return algo, data, cell, figure if figure != "test" else ""

"""Rows of tables: which runs belong to which cell of a table's sweep, under which budget. Imports no torch."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from metarun.metric import ACCURACY, Metric
from metarun.report.published import Published, published
from metarun.report.runs import Run
from metarun.report.scores import Cell, mean_of, score
from metarun.report.sweeps import Sweep, published_name


@dataclass
class Row:
    """The runs of a cell under one budget."""

    labels: tuple[str, ...]
    """Values of the keys that distinguish cells."""
    runs: list[Run]
    """Finished ones, one of each seed."""
    others: list[Run]
    """Unfinished ones, of seeds that have no finished run."""
    look: str
    """The figure that the row is about, see `score`."""
    published: Published | None
    budget: str
    changed: str
    """What their commands changed of the table's protocol."""

    @property
    def metric(self) -> Metric:
        """That of its runs. Any will do for a row without runs, which shows no value."""
        return self.runs[0].metric if self.runs else ACCURACY

    def by_seed(self, figure: str) -> dict[int, float | None]:
        """A figure by seed, see `score`."""
        return {run.seed: score(run, figure)[0] for run in self.runs}

    def over_seeds(self, figure: str) -> Cell:
        """Mean over seeds with its interval; an empty text where a run has no such figure, `not finite` where one is not."""
        return mean_of(self.by_seed(figure).values(), self.metric.digits)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the row's figure over seeds (n - 1); None for one seed, or where a run has no such figure."""
        values = [value for value in self.by_seed(self.look).values() if value is not None]
        return float(np.std(values, ddof=1)) if len(values) > 1 and len(values) == len(self.runs) else None

    @property
    def over_tasks(self) -> float | None:
        """The interval over test tasks within a seed, averaged over seeds."""
        found = [score(run, self.look)[1] for run in self.runs]
        known = [ci for ci in found if ci is not None]
        return sum(known) / len(known) if known and len(known) == len(found) else None

    @property
    def state(self) -> str:
        """What is missing or failed, in a few words."""
        if not self.runs and not self.others:
            return "missing"
        counts: dict[str, list[str]] = defaultdict(list)
        for run in self.others:
            counts[run.status].append(" ".join(str(run.results.get("stopped", "")).split())[:60])
        return "; ".join(f"{len(whys)} {status}{f' ({whys[0]})' if whys[0] else ''}" for status, whys in counts.items())


def rows(sweep: Sweep, runs: Iterable[Run]) -> Iterator[Row]:
    """The rows of a table, one or more for each cell of its sweep: for each budget and set of changes, and each published figure.

    Methods of one setting follow one another.
    """
    keys = sweep.keys
    beside = dict(sweep.cells())
    members: dict[tuple[str, ...], list[Run]] = {values: [] for values in beside}
    for run in runs:
        values = tuple(str(run.said.get(key, run.results.get(key, ""))) for key in keys)
        if run.said.get("table") == sweep.name or ("paper" in keys and values in beside):
            members.setdefault(values, []).append(run)
    settings = list(dict.fromkeys(values[:-1] for values in members))
    for values, found in sorted(members.items(), key=lambda cell: settings.index(cell[0][:-1])):
        told = dict(zip(keys, values, strict=True))
        known = published().get(published_name(sweep.data, told), {})
        groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
        for run in found:
            groups[run.budget, " ".join(run.changes(keys, beside.get(values, {})))].append(run)
        for (budget, changed), some in sorted(groups.items()) or [(("", ""), [])]:
            finished, others = _by_seed(some)
            for look in known or ("test",):
                labels, figure = values, look
                if "paper" in told:
                    labels = _paper_labels(told["paper"], look)
                elif look in known:
                    figure = "acc"
                yield Row(labels, finished, others, figure, known.get(look), budget, changed)


def _by_seed(runs: Iterable[Run]) -> tuple[list[Run], list[Run]]:
    """One run of each seed, in two lists: finished ones by seed, and the others, of seeds without a finished run."""
    chosen = {run.seed: run for run in sorted(runs, key=lambda run: (run.finished, str(run.path)))}
    finished = [run for _, run in sorted(chosen.items()) if run.finished]
    return finished, [run for run in chosen.values() if not run.finished]


def _paper_labels(paper: str, look: str) -> tuple[str, ...]:
    """Algorithm, data, cell and look of a paper's row: `maml_omniglot_5way_1shot`."""
    algo, data, cell = [*paper.split("_", 2), ""][:3]
    return algo, data, cell, look if look != "test" else ""

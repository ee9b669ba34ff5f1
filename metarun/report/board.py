"""The board: every published value beside its measurement under the full protocol, from records alone. Imports no torch."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from metarun.metric import ACCURACY, KNOWN, Metric
from metarun.report.published import Published, papers
from metarun.report.records import Cell, Measured, Record, cells
from metarun.report.render import grid
from metarun.report.scores import Measure, average, distinct, mean_of, printed, text
from metarun.report.statistics import over_seeds
from metarun.report.verdict import SEEDS, margin, seeds_wanted, verdict

NOT_RUN = "not run"
VERDICTS = ("reproduced", "better than published", "worse than published", "inconclusive", "not finite", NOT_RUN)
HEADS = (
    "cell", "figure", "measured", "over tasks", "published", "margin", "verdict", "seeds", "seeds wanted",
    "updates", "test tasks", "minutes", "device", "commit",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A published value and the runs that measured it."""

    cell: Cell
    figure: str
    published: Published
    record: Record | None

    @property
    def runs(self) -> list[Measured]:
        return self.record.runs if self.record else []

    @property
    def values(self) -> list[float]:
        """The measured value of each seed; NaN where it is not finite."""
        return [float("nan") if (mean := run.figures[self.figure][0]) is None else mean for run in self.runs]

    @property
    def metric(self) -> Metric:
        """Metric of the record. An entry without a record shows no value, so any metric will do."""
        return KNOWN[self.record.metric] if self.record else ACCURACY

    @property
    def verdict(self) -> str:
        """Verdict of the equivalence test (docs/protocols.md), or `not run`."""
        if not self.values:
            return NOT_RUN
        return verdict(*over_seeds(self.values), len(self.values), self.published, self.metric)

    @property
    def seeds_wanted(self) -> int:
        """Number of seeds that a verdict is likely to need: `verdict.seeds_wanted`, or the minimum if fewer than two have run."""
        if len(self.values) < 2 or not np.isfinite(self.values).all():
            return SEEDS
        return seeds_wanted(float(np.std(self.values, ddof=1)), margin(self.published, self.metric))

    def cells(self) -> list[str]:
        """The texts of its row, one per column of `HEADS`."""
        first = [f"`{self.cell.name}`", self.figure if self.figure not in ("test", "acc") else ""]
        if not self.runs:
            return [*first, "", "", text(printed(self.published)), "", NOT_RUN, *[""] * 7]
        measured = mean_of(self.values, self.metric.digits)
        over_tasks = average(run.figures[self.figure][1] for run in self.runs)
        return [
            *first,
            text(measured),
            "" if over_tasks is None else f"± {over_tasks:.{self.metric.digits}f}",
            text(printed(self.published)),
            f"± {margin(self.published, self.metric):.3g}",
            self.verdict,
            str(len(self.runs)),
            str(self.seeds_wanted) if isinstance(measured, Measure) else "",
            distinct(f"{run.updates:,}" for run in self.runs),
            distinct(f"{run.test_tasks:,}" for run in self.runs if run.test_tasks),
            f"{sum(run.seconds for run in self.runs) / 60:.0f}",
            distinct(run.device for run in self.runs),
            distinct(run.commit or "" for run in self.runs),
        ]


def board(records: Mapping[str, Record]) -> list[Entry]:
    """All published values with their records, grouped by paper."""
    entries = [
        Entry(cell, figure, value, records.get(cell.name)) for cell in cells().values() for figure, value in cell.published.items()
    ]
    order = list(papers())
    return sorted(entries, key=lambda entry: order.index(entry.published.paper))


def totals(entries: list[Entry]) -> str:
    """The number of values with each verdict, in one line: `12 reproduced, 3 inconclusive, 98 not run`."""
    counts = Counter(entry.verdict for entry in entries)
    return ", ".join(f"{counts[name]} {name}" for name in VERDICTS if counts[name])


def markdown(entries: list[Entry]) -> str:
    """The text of docs/reproduced.md."""
    lines = [
        "# Published figures, measured",
        "",
        f"{len(entries)} figures of {len({entry.published.paper for entry in entries})} papers: **{totals(entries)}**.",
        "",
        "Each figure is measured under the whole protocol of its row: every update and every test task. Measured is the mean",
        "over seeds with its 95 % interval (Student's t); over tasks is the interval over test tasks within a seed. Verdicts and",
        "margins are those of [the equivalence test](protocols.md#verdicts). A question mark marks a published figure that was not",
        "read in the paper itself. Minutes are training time, summed over seeds. `python scripts/reproduce.py` runs the missing",
        "cells and writes this page from the records in [reproduced/](reproduced/), one file per cell.",
    ]
    for paper, of_paper in groupby(entries, key=lambda entry: entry.published.paper):
        lines += ["", f"## {papers()[paper]}", "", *grid(HEADS, (entry.cells() for entry in of_paper))]
    return "\n".join(lines) + "\n"

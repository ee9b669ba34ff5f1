"""Builds the tables of `configs/table/` from run directories, with published values and missing cells. Imports no torch.

A row is a cell of the table's sweep under one budget. Its runs are those with `+table=NAME` in their command; in a table of
papers' rows, also those with `+paper=` and one of these rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from metarun.report import sweeps
from metarun.report.rows import Row
from metarun.report.rows import rows as rows_of
from metarun.report.runs import Run
from metarun.report.scores import Cell, Measure, distinct, mean_of, printed
from metarun.report.statistics import over_seeds
from metarun.report.verdict import SEEDS, margin, seeds_wanted, verdict

STREAM_FIGURES = ("acc", "bwt", "forgetting", "last stage", "online")


@dataclass
class Table:
    """A table ready to be written.

    Attributes:
        name: of its file in configs/table/.
        title: the first line of that file.
        heads, lines: the cells, without columns that are empty in every row.
        notes: sources and rules, one line each.
        rows: the rows behind the lines.
    """

    name: str
    title: str
    heads: list[str]
    lines: list[list[Cell]]
    notes: list[str]
    rows: list[Row]


def make(name: str, runs: Iterable[Run]) -> Table:
    """The table ``name``, from those of ``runs`` that belong to it.

    Raises:
        ConfigError: there is no such table.
    """
    sweep = sweeps.read(name)
    keys, rows = sweep.keys, list(rows_of(sweep, runs))
    heads = ["algo", "data", "cell", "evaluated at"] if "paper" in keys else [key.rpartition(".")[2] for key in keys]
    has_published = any(row.published for row in rows)
    cells = _beside_published(rows, keys.index("cl") if "cl" in keys else None) if has_published else _figures_of_merit(rows)
    for line, row in zip(cells, rows, strict=True):
        line |= _provenance(row)
    # Labels that all rows share are left out, and so are empty columns.
    labels = list(zip(*(row.labels for row in rows), strict=True))
    distinct = [i for i, values in enumerate(labels) if len(set(values)) > 1] or [0]
    columns = [column for column in dict.fromkeys(c for line in cells for c in line) if any(line.get(column) for line in cells)]
    lines: list[list[Cell]] = [
        [*(f"`{row.labels[i]}`" if row.labels[i] else "" for i in distinct), *(line.get(column, "") for column in columns)]
        for line, row in zip(cells, rows, strict=True)
    ]
    return Table(name, sweep.title, [*(heads[i] for i in distinct), *columns], lines, _notes(rows) if has_published else [], rows)


def _beside_published(rows: Sequence[Row], method: int | None) -> list[dict[str, Cell]]:
    """Columns: measured, published, their difference and the verdict; for streams, the paired gain over `none`.

    ``method``: the index of the continual-learning method among the labels.
    """

    def setting(row: Row) -> tuple[str, ...]:
        """The labels other than the method, with budget and changes."""
        return (*row.labels[:method], *row.labels[(method or 0) + 1 :], row.budget, row.changed)

    none = {} if method is None else {setting(row): row.by_seed(row.figure) for row in rows if row.labels[method] == "none"}
    lines = []
    for row in rows:
        measured = row.over_seeds(row.figure)
        line: dict[str, Cell] = {
            "measured": measured or row.state,
            "over tasks": "",
            "published": "",
            "difference": "",
            "margin": "",
            "verdict": verdict_of(row),
            "seeds": str(len(row.runs) or ""),
            "seeds wanted": "",
        }
        if row.over_tasks is not None:
            line["over tasks"] = f"± {row.over_tasks:.{row.metric.digits}f}"
        if row.published and row.published.value is not None:
            line["published"] = printed(row.published)
            allowed = margin(row.published, row.metric) if row.runs else 0.0  # the metric is known from runs only
            line["margin"] = f"± {allowed:.3g}" if row.runs else ""
            if isinstance(measured, Measure):
                line["difference"] = Measure(measured.mean - row.published.value, None, row.metric.digits, "+")
                if line["verdict"] not in ("other protocol", "short budget"):
                    line["seeds wanted"] = str(seeds_wanted(row.spread, allowed)) if row.spread is not None else f"{SEEDS} or more"
        if method is not None:
            without = none.get(setting(row), {}) if row.labels[method] != "none" else {}
            values = [(value, without.get(seed)) for seed, value in row.by_seed(row.figure).items()]
            line["gain over none"] = mean_of((a - b for a, b in values if a is not None and b is not None), row.metric.digits, "+")
        lines.append(line)
    return lines


def verdict_of(row: Row) -> str:
    """`metarun.report.verdict.verdict` on the row, or `short budget`, or `other protocol` if the runs depart from the protocol.

    Empty if the paper prints no value, or a run has no such score.
    """
    values = list(row.by_seed(row.figure).values())
    present = [value for value in values if value is not None]
    if row.published is None or row.published.value is None or not values or len(present) < len(values):
        return ""
    if row.changed:
        return "other protocol"
    if not all(run.full for run in row.runs):
        return "short budget"
    return verdict(*over_seeds(present), len(present), row.published, row.metric)


def _figures_of_merit(rows: Sequence[Row]) -> list[dict[str, Cell]]:
    """Columns: the scores by length if there are any, else the figures of merit of streams."""
    lengths = [
        f"length {entry['length']}" for row in rows for run in row.runs for entry in run.results["test"].get("by_length", [])
    ]
    columns = dict.fromkeys(lengths or STREAM_FIGURES)
    return [{column: row.over_seeds(column) for column in columns} for row in rows]


def _provenance(row: Row) -> dict[str, Cell]:
    """The conditions under which the row was measured, and the state of its runs."""
    results = [run.results for run in row.runs]
    return {
        "state": row.state,
        "seeds": str(len(row.runs) or ""),
        "test tasks": distinct(f"{run.test.get('n_tasks', 0):,}" for run in row.runs if run.test),
        "batch norm": distinct(of_run["protocol"]["batch_norm"] or "" for of_run in results if "protocol" in of_run),
        "updates": distinct(f"{of_run['train']['iterations']:,}" for of_run in results if of_run.get("train")),
        "budget": row.budget,
        "changed": f"`{row.changed}`" if row.changed else "",
        "commit": distinct(of_run["environment"].get("git") or "" for of_run in results if "environment" in of_run),
        "device": distinct(of_run["environment"].get("device", "") for of_run in results if "environment" in of_run),
    }


def _notes(rows: Sequence[Row]) -> list[str]:
    sources = dict.fromkeys(f"Published: {row.published.source}" for row in rows if row.published)
    return [
        "Measured: mean over seeds with its 95 % interval (Student's t, n - 1); over tasks: the interval over test tasks within a"
        " seed.",
        "Reproduced: under the full protocol, the interval over seeds is wholly within the margin of the published value; better"
        " or worse: wholly outside; inconclusive: neither, or fewer than three seeds. Seeds wanted: the number of seeds for which"
        " a method whose true mean is the published value is reproduced with a probability of 80 %.",
        "Margin: the largest of the published 95 % interval, half its last printed digit, and a quarter of 100 - value but at most"
        " 1.5 points; for a mean squared error, a tenth of the value. A question mark: not read in the paper itself.",
        *sources,
    ]

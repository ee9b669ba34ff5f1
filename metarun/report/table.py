"""Tables of `configs/table/` from run directories: measured beside published, with missing and failed cells. Imports no torch.

A row is a cell of the table's sweep under one budget. Its runs are those whose command had `+table=NAME`; in a table of papers'
rows also those with `+paper=` one of these rows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from metarun.report import sweeps
from metarun.report.rows import Row
from metarun.report.rows import rows as rows_of
from metarun.report.runs import Run
from metarun.report.scores import Cell, Measure, mean_of
from metarun.report.statistics import over_seeds
from metarun.report.verdict import SEEDS, margin, seeds_wanted, verdict

STREAM_FIGURES = ("acc", "bwt", "forgetting", "last stage", "online")


@dataclass
class Table:
    """A finished table.

    Attributes:
        name: of its file in configs/table/.
        title: that file's first line.
        heads, lines: cells, columns that are empty in all rows left out.
        notes: sources and rules, a line each.
        rows: what the lines were made of.
    """

    name: str
    title: str
    heads: list[str]
    lines: list[list[Cell]]
    notes: list[str]
    rows: list[Row]


def make(name: str, runs: Iterable[Run]) -> Table:
    """The table ``name`` of those of ``runs`` that belong to it.

    Raises:
        ConfigError: there is no such table.
    """
    sweep = sweeps.read(name)
    keys, rows = sweep.keys, list(rows_of(sweep, runs))
    heads = ["algo", "data", "cell", "look"] if "paper" in keys else [key.rpartition(".")[2] for key in keys]
    beside = any(row.published for row in rows)
    made = _beside_published(rows, keys.index("cl") if "cl" in keys else None) if beside else _figures_of_merit(rows)
    for line, row in zip(made, rows, strict=True):
        line |= _provenance(row)
    # Labels that all rows share, and empty columns, are left out.
    labels = list(zip(*(row.labels for row in rows), strict=True))
    telling = [i for i, values in enumerate(labels) if len(set(values)) > 1] or [0]
    columns = [column for column in dict.fromkeys(c for line in made for c in line) if any(line.get(column) for line in made)]
    lines: list[list[Cell]] = [
        [*(f"`{row.labels[i]}`" if row.labels[i] else "" for i in telling), *(line.get(column, "") for column in columns)]
        for line, row in zip(made, rows, strict=True)
    ]
    return Table(name, sweep.title, [*(heads[i] for i in telling), *columns], lines, _notes(rows) if beside else [], rows)


def _beside_published(rows: Sequence[Row], method: int | None) -> list[dict[str, Cell]]:
    """Columns: measured, published, their difference and what that means; of streams the paired gain over `none`.

    ``method``: the place of the continual method among the labels.
    """

    def setting(row: Row) -> tuple[str, ...]:
        """All but the method."""
        return (*row.labels[:method], *row.labels[(method or 0) + 1 :], row.budget, row.changed)

    none = {} if method is None else {setting(row): row.by_seed(row.look) for row in rows if row.labels[method] == "none"}
    lines = []
    for row in rows:
        measured = row.over_seeds(row.look)
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
            mark = "" if row.published.verified == "paper" else " ?"
            line["published"] = Measure(row.published.value, row.published.ci95, row.published.digits, mark=mark)
            allowed = margin(row.published, row.metric) if row.runs else 0.0  # only a run tells which metric it is
            line["margin"] = f"± {allowed:.3g}" if row.runs else ""
            if isinstance(measured, Measure):
                line["difference"] = Measure(measured.mean - row.published.value, None, row.metric.digits, "+")
                if line["verdict"] not in ("other protocol", "short budget"):
                    line["seeds wanted"] = str(seeds_wanted(row.spread, allowed)) if row.spread is not None else f"{SEEDS} or more"
        if method is not None:
            without = none.get(setting(row), {}) if row.labels[method] != "none" else {}
            values = [(value, without.get(seed)) for seed, value in row.by_seed(row.look).items()]
            line["gain over none"] = mean_of((a - b for a, b in values if a is not None and b is not None), row.metric.digits, "+")
        lines.append(line)
    return lines


def verdict_of(row: Row) -> str:
    """`metarun.report.verdict.verdict` of the row's figure, or `short budget`, or `other protocol` where the command changed it.

    Nothing where the paper prints no value, or a run has no such figure.
    """
    values = list(row.by_seed(row.look).values())
    known = [value for value in values if value is not None]
    if row.published is None or row.published.value is None or not values or len(known) < len(values):
        return ""
    if row.changed:
        return "other protocol"
    if not all(run.full for run in row.runs):
        return "short budget"
    return verdict(*over_seeds(known), len(known), row.published, row.metric)


def _figures_of_merit(rows: Sequence[Row]) -> list[dict[str, Cell]]:
    """Columns: the score by length where there is one, else the figures of merit of streams."""
    lengths = [
        f"length {found['length']}" for row in rows for run in row.runs for found in run.results["test"].get("by_length", [])
    ]
    columns = dict.fromkeys(lengths or STREAM_FIGURES)
    return [{column: row.over_seeds(column) for column in columns} for row in rows]


def _provenance(row: Row) -> dict[str, Cell]:
    """What the row's figures were measured under, and how many of its runs came to an end."""
    results = [run.results for run in row.runs]
    return {
        "state": row.state,
        "seeds": str(len(row.runs) or ""),
        "test tasks": _each(f"{run.test.get('n_tasks', 0):,}" for run in row.runs if run.test),
        "batch norm": _each(found["protocol"]["batch_norm"] or "" for found in results if "protocol" in found),
        "updates": _each(f"{found['train']['iterations']:,}" for found in results if found.get("train")),
        "budget": row.budget,
        "changed": f"`{row.changed}`" if row.changed else "",
        "commit": _each(found["environment"].get("git") or "" for found in results if "environment" in found),
        "device": _each(found["environment"].get("device", "") for found in results if "environment" in found),
    }


def _notes(rows: Sequence[Row]) -> list[str]:
    sources = dict.fromkeys(f"Published: {row.published.source}" for row in rows if row.published)
    return [
        "Measured: mean over seeds with its 95 % interval (Student's t, n - 1); over tasks: that over test tasks within a seed.",
        "Reproduced: the whole protocol run, and the interval over seeds wholly within the margin of the published figure;"
        " better or worse: wholly outside; inconclusive: neither, or fewer than three seeds. Seeds wanted: so many give a method"
        " whose mean is the published one the verdict reproduced with a probability of 80 %.",
        "Margin: the largest of the published 95 % interval, half of its last printed digit, and a quarter of 100 - value, at most"
        " 1.5 points; of a mean squared error a tenth of the value. A question mark: not read in the paper itself.",
        *sources,
    ]


def _each(values: Iterable[str]) -> str:
    """The different ones among them."""
    return ", ".join(dict.fromkeys(value for value in values if value))

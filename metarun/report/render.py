"""Writes a table as Markdown, LaTeX, CSV and a picture. Imports no torch."""

import csv as csv_format
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metarun.files import replacing
from metarun.report import figures
from metarun.report.rows import Row
from metarun.report.scores import Cell, Measure, text
from metarun.report.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save(table: Table, folder: Path) -> list[Path]:
    """Write ``table`` to ``folder`` in all formats → the files written."""
    written = []
    for ending, content in {"md": markdown(table) + "\n", "tex": latex(table), "csv": csv(table)}.items():
        path = folder / f"{table.name}.{ending}"
        with replacing(path) as file:
            file.write(content.encode())
        written.append(path)
    drawn = picture(table)
    if drawn is not None:
        written.append(folder / f"{table.name}.png")
        figures.save(drawn, written[-1])
        figures.close(drawn)
    return written


def markdown(table: Table) -> str:
    """A Markdown table, followed by the notes as a list."""
    notes = ["", *(f"- {note}" for note in table.notes)] if table.notes else []
    return "\n".join(grid(table.heads, table.lines) + notes)


def grid(heads: Sequence[str], lines: Iterable[Sequence[Cell]]) -> list[str]:
    """The lines of a Markdown table."""
    rows = [heads, ["---"] * len(heads), *([text(cell) for cell in line] for line in lines)]
    return ["| " + " | ".join(row) + " |" for row in rows]


def latex(table: Table) -> str:
    """A `tabular` with booktabs rules, preceded by the title and the notes as comments."""
    rows: list[list[Cell]] = [[*table.heads], *table.lines]
    lines = [" & ".join(_latex(cell) for cell in row) + r" \\" for row in rows]
    body = [rf"\begin{{tabular}}{{{'l' * len(table.heads)}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
    return "\n".join([f"% {table.title}", *(f"% {note}" for note in table.notes), *body, r"\end{tabular}", ""])


def csv(table: Table) -> str:
    """CSV; a measure takes two columns, mean and interval."""
    measures = [any(isinstance(line[i], Measure) for line in table.lines) for i in range(len(table.heads))]
    buffer = io.StringIO()
    writer = csv_format.writer(buffer, lineterminator="\n")
    heads = ([head, f"{head} ci95"] if two else [head] for head, two in zip(table.heads, measures, strict=True))
    writer.writerow([name for names in heads for name in names])
    for line in table.lines:
        writer.writerow([part for cell, two in zip(line, measures, strict=True) for part in _parts(cell, two)])
    return buffer.getvalue()


def picture(table: Table) -> "Figure | None":
    """Measured and published values of every row, or the matrices R if no row has a published value; None: nothing to draw."""
    rows = [row for row in table.rows if row.runs]
    if not rows:
        return None
    return _beside_published(rows) if any(row.published for row in table.rows) else _matrices(rows)


def _beside_published(rows: list[Row]) -> "Figure":
    points = {}
    for row in rows:
        measured = row.over_seeds(row.figure)
        if isinstance(measured, Measure):
            ci = measured.ci95 if measured.ci95 is not None else row.over_tasks
            published = row.published and (row.published.value, row.published.ci95)
            budget = "" if row.budget == "full" else f"({row.budget})"
            points[" ".join(filter(None, (*row.labels, budget, row.changed)))] = (measured.mean, ci, published)
    return figures.beside_published(points, rows[0].metric)


def _matrices(rows: list[Row]) -> "Figure | None":
    """R averaged over seeds, a row of panels per setting; None: the runs have one stage."""
    means: dict[str, dict[str, list[list[float]]]] = defaultdict(dict)
    metrics = {}
    for row in rows:
        R = [run.results["continual"]["R"] for run in row.runs if run.results["continual"]]
        if R:
            *setting, method = row.labels
            title = "\n".join(filter(None, (*setting, *row.changed.split())))
            means[title][method] = np.mean(np.array(R, np.float64), 0).tolist()
            metrics[title] = row.metric
    return figures.stage_matrices(means, metrics) if means else None


def _latex(cell: Cell) -> str:
    if isinstance(cell, Measure):
        return f"${cell.text(chr(92) + 'pm').removesuffix(cell.mark)}${cell.mark}"
    for plain, escaped in {"\\": r"\textbackslash{}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "±": r"$\pm$"}.items():
        cell = cell.replace(plain, escaped)
    parts = cell.split("`")
    return "".join(rf"\texttt{{{part}}}" if i % 2 else part for i, part in enumerate(parts))


def _parts(cell: Cell, two: bool) -> list[str]:
    if isinstance(cell, Measure):
        return [f"{cell.mean:.6g}", "" if cell.ci95 is None else f"{cell.ci95:.6g}"]
    plain = cell.replace("`", "").removeprefix("± ")
    return [plain, ""] if two else [plain]

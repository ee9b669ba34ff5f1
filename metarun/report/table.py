"""Tables of `configs/table/` from run directories: measured beside published, missing and failed cells shown. Imports no torch.

A row is a cell of the table's sweep under one budget. Its runs are those whose command said `+table=NAME`, or, in a table of
papers' rows, `+paper=` one of them, whichever table that was for.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import yaml

from metarun.config import CONFIGS, ConfigError, nearest
from metarun.files import replacing
from metarun.metric import ACCURACY, Metric
from metarun.report import figures
from metarun.report.published import Published, published
from metarun.report.runs import Run
from metarun.report.statistics import over_seeds
from metarun.report.verdict import SEEDS, margin, seeds_wanted, verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STREAM_FIGURES = ("acc", "bwt", "forgetting", "last stage", "online")


class Measure(NamedTuple):
    """A figure with its 95 % interval, where it has one; ``mark`` is set behind it."""

    mean: float
    ci95: float | None
    digits: int = 2
    sign: str = ""
    mark: str = ""

    def text(self, plus_minus: str = "±") -> str:
        interval = "" if self.ci95 is None else f" {plus_minus} {self.ci95:.{self.digits}f}"
        return f"{self.mean:{self.sign}.{self.digits}f}{interval}{self.mark}"


Cell = str | Measure


@dataclass
class Row:
    """The runs of a cell under one budget."""

    labels: tuple[str, ...]
    runs: list[Run]
    """Finished, one of each seed."""
    others: list[Run]
    """Those that came to no end, of seeds that have no finished run."""
    look: str
    published: Published | None
    budget: str
    changed: str
    """What their commands changed of the table's protocol."""

    @property
    def metric(self) -> Metric:
        """That of its runs; a row without runs has nothing to show in it."""
        return self.runs[0].metric if self.runs else ACCURACY

    def by_seed(self, figure: str) -> dict[int, float | None]:
        """A figure by seed, see `score`."""
        return {run.seed: score(run, figure)[0] for run in self.runs}

    def over_seeds(self, figure: str) -> Cell:
        """Mean over seeds with its interval; nothing where a run has no such figure, a word where it is not finite."""
        return mean_of(self.by_seed(figure).values(), self.metric.digits)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the row's figure over seeds (n - 1); None for one seed, or where a run has no such figure."""
        values = [value for value in self.by_seed(self.look).values() if value is not None]
        return float(np.std(values, ddof=1)) if len(values) > 1 and len(values) == len(self.runs) else None

    @property
    def over_tasks(self) -> float | None:
        """The interval over test tasks within a seed, the mean over seeds."""
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

    def markdown(self) -> str:
        lines: list[list[str]] = [self.heads, ["---"] * len(self.heads)]
        lines += [[_text(cell) for cell in line] for line in self.lines]
        return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ([""] if self.notes else []) + self._listed("- "))

    def latex(self) -> str:
        """A `tabular` with the rules of booktabs."""
        rows: list[list[Cell]] = [[*self.heads], *self.lines]
        lines = [" & ".join(_latex(cell) for cell in row) + r" \\" for row in rows]
        body = [rf"\begin{{tabular}}{{{'l' * len(self.heads)}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule"]
        return "\n".join([f"% {self.title}", *self._listed("% "), *body, r"\end{tabular}", ""])

    def csv(self) -> str:
        """A measure in two columns: its mean and its interval."""
        measures = [any(isinstance(line[i], Measure) for line in self.lines) for i in range(len(self.heads))]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([name for head, two in zip(self.heads, measures, strict=True) for name in _columns(head, two)])
        for line in self.lines:
            writer.writerow([part for cell, two in zip(line, measures, strict=True) for part in _parts(cell, two)])
        return text.getvalue()

    def save(self, folder: Path) -> list[Path]:
        """Write it to ``folder`` as Markdown, LaTeX, CSV and a picture → the files."""
        written = []
        for ending, content in {"md": self.markdown() + "\n", "tex": self.latex(), "csv": self.csv()}.items():
            path = folder / f"{self.name}.{ending}"
            with replacing(path) as file:
                file.write(content.encode())
            written.append(path)
        picture = self.picture()
        if picture is not None:
            written.append(folder / f"{self.name}.png")
            figures.save(picture, written[-1])
            figures.close(picture)
        return written

    def picture(self) -> "Figure | None":
        """Measured and published figures of every row; the matrices R where nothing is published; None: nothing to draw."""
        rows = [row for row in self.rows if row.runs]
        if not rows:
            return None
        if any(row.published for row in self.rows):
            found = {}
            for row in rows:
                measured = row.over_seeds(row.look)
                if isinstance(measured, Measure):
                    ci = measured.ci95 if measured.ci95 is not None else row.over_tasks
                    told = row.published and (row.published.value, row.published.ci95)
                    short = "" if row.budget == "full" else f"({row.budget})"
                    found[" ".join(filter(None, (*row.labels, short, row.changed)))] = (measured.mean, ci, told)
            return figures.beside_published(found, rows[0].metric)
        found_R: dict[str, dict[str, list[list[float]]]] = defaultdict(dict)
        metrics = {}
        for row in rows:
            R = [run.results["continual"]["R"] for run in row.runs if run.results["continual"]]
            if R:
                *setting, method = row.labels
                title = "\n".join(filter(None, (*setting, *row.changed.split())))
                found_R[title][method] = np.mean(np.array(R, np.float64), 0).tolist()
                metrics[title] = row.metric
        return figures.stage_matrices(found_R, metrics) if found_R else None

    def _listed(self, before: str) -> list[str]:
        return [before + note for note in self.notes]


def make(name: str, runs: Iterable[Run]) -> Table:
    """The table ``name`` of those of ``runs`` that belong to it.

    Raises:
        ConfigError: there is no such table.
    """
    path = CONFIGS / "table" / f"{name}.yaml"
    tables = [known.stem for known in path.parent.glob("*.yaml")]
    if name not in tables:
        raise ConfigError(f"table={name}: no such table{nearest(name, tables)}")
    content = yaml.safe_load(path.read_text())
    grids = grids_of(content["hydra"]["sweeper"]["params"])
    keys = telling_keys(grids)
    stream = next((entry["override /data"] for entry in content.get("defaults", []) if "override /data" in entry), None)
    rows = list(_rows(name, grids, keys, stream, list(runs)))
    title = next(line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#") and not line.startswith("# @"))
    # A paper's row is told by its algorithm, data, cell and the look at it.
    heads = ["algo", "data", "cell", "look"] if "paper" in keys else [key.rpartition(".")[2] for key in keys]
    beside = any(row.published for row in rows)
    made = _beside_published(rows, keys.index("cl") if "cl" in keys else None) if beside else _figures_of_merit(rows)
    for line, row in zip(made, rows, strict=True):
        line |= _provenance(row)
    # One value of a label in all rows tells nothing, nor does a column without any.
    labels = list(zip(*(row.labels for row in rows), strict=True))
    telling = [i for i, values in enumerate(labels) if len(set(values)) > 1] or [0]
    columns = [column for column in dict.fromkeys(c for line in made for c in line) if any(line.get(column) for line in made)]
    lines: list[list[Cell]] = [
        [*(f"`{row.labels[i]}`" if row.labels[i] else "" for i in telling), *(line.get(column, "") for column in columns)]
        for line, row in zip(made, rows, strict=True)
    ]
    return Table(name, title, [*(heads[i] for i in telling), *columns], lines, _notes(rows) if beside else [], rows)


Grid = dict[str, list[str]]
"""Values by key: a table's sweep, or one of several."""


def grids_of(params: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> list[Grid]:
    """What a table sweeps over, the seeds left out."""
    grids = [params] if isinstance(params, Mapping) else params
    return [{key.lstrip("+"): _listed(values) for key, values in grid.items() if key != "seed"} for grid in grids]


def _listed(values: Any) -> list[str]:
    return ["null"] if values is None else str(values).replace(" ", "").split(",")


def telling_keys(grids: Sequence[Grid]) -> list[str]:
    """The keys that tell rows apart: those with several values in a grid, and groups chosen in one; the continual method last."""
    keys = dict.fromkeys(key for grid in grids for key, values in grid.items() if len(values) > 1 or (CONFIGS / key).is_dir())
    return sorted(keys, key=lambda key: key == "cl")


def _rows(name: str, grids: Sequence[Grid], keys: Sequence[str], stream: str | None, runs: Sequence[Run]) -> Iterable[Row]:
    cells: dict[tuple[str, ...], list[Run]] = {}
    fixed: dict[tuple[str, ...], dict[str, str]] = {}
    """What all of a cell's jobs say beside."""
    for grid in grids:
        for values in product(*(grid.get(key, [""]) for key in keys)):
            cells[values] = []
            fixed[values] = {key: values[0] for key, values in grid.items() if key not in keys}
    for run in runs:
        values = tuple(str(run.said.get(key, run.results.get(key, ""))) for key in keys)
        if run.said.get("table") == name or ("paper" in keys and values in cells):
            cells.setdefault(values, []).append(run)
    blocks = list(dict.fromkeys(values[:-1] for values in cells))  # methods of one setting stand together
    for values, members in sorted(cells.items(), key=lambda cell: blocks.index(cell[0][:-1])):
        told = dict(zip(keys, values, strict=True))
        known = published().get(
            told.get("paper") or "_".join(filter(None, (stream, told.get("data.scenario"), told.get("cl")))), {}
        )
        groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
        for run in members:
            groups[run.budget, " ".join(run.changes(keys, fixed.get(values, {})))].append(run)
        for (budget, changed), some in sorted(groups.items()) or [(("", ""), [])]:
            chosen = {run.seed: run for run in sorted(some, key=lambda run: (run.finished, str(run.path)))}
            finished = [run for _, run in sorted(chosen.items()) if run.finished]
            others = [run for run in chosen.values() if not run.finished]
            for look in known or ("test",):
                beside, labels, figure = known.get(look), values, look
                if "paper" in told:
                    algo, data, cell = [*told["paper"].split("_", 2), ""][:3]
                    labels = (algo, data, cell, look if look != "test" else "")
                elif beside is not None:
                    figure = "acc"
                yield Row(labels, finished, others, figure, beside, budget, changed)


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


def score(run: Run, figure: str) -> tuple[float | None, float | None]:
    """A run's figure and its interval over tasks, accuracies in per cent; None where it has no such figure.

    ``figure``: `test`, `step N`, `presentation N`, `length N`, a key of the stream's figures of merit, `last stage`, `online`.
    A figure that is not finite is NaN.
    """
    test, stream = run.results["test"], run.results.get("continual") or {}
    kind, _, number = figure.partition(" ")
    found: Mapping[str, Any] = {}
    if figure == "test":
        found = run.test
    elif number.isdigit():
        found = next((row for row in test.get(f"by_{kind}", []) if row[kind] == int(number)), {})
    elif figure == "last stage":
        found = {"mean": stream["R"][-1][-1]} if stream else {}
    elif figure == "online":
        found = {"mean": stream["online"][run.metric.name]} if stream.get("online") else {}
    elif stream.get(figure) is not None:
        found = {"mean": stream[figure], "ci95": run.test.get("ci95") if figure == "acc" else None}
    if "mean" not in found:
        return None, None
    mean, ci = found["mean"], found.get("ci95")
    return float("nan") if mean is None else run.metric.scale * mean, None if ci is None else run.metric.scale * ci


def mean_of(values: Iterable[float | None], digits: int, sign: str = "") -> Cell:
    """Mean over seeds with its interval; nothing where one is missing or there are none."""
    known = list(values)
    if not known or any(value is None for value in known):
        return ""
    mean, ci = over_seeds([value for value in known if value is not None])
    return Measure(mean, ci, digits, sign) if np.isfinite(mean) else "not finite"


def _each(values: Iterable[str]) -> str:
    """The different ones among them."""
    return ", ".join(dict.fromkeys(value for value in values if value))


def _text(cell: Cell) -> str:
    return cell if isinstance(cell, str) else cell.text()


def _latex(cell: Cell) -> str:
    if isinstance(cell, Measure):
        return f"${cell.text(chr(92) + 'pm').removesuffix(cell.mark)}${cell.mark}"
    for plain, escaped in {"\\": r"\textbackslash{}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "±": r"$\pm$"}.items():
        cell = cell.replace(plain, escaped)
    parts = cell.split("`")
    return "".join(rf"\texttt{{{part}}}" if i % 2 else part for i, part in enumerate(parts))


def _columns(head: str, two: bool) -> list[str]:
    return [head, f"{head} ci95"] if two else [head]


def _parts(cell: Cell, two: bool) -> list[str]:
    if isinstance(cell, Measure):
        return [f"{cell.mean:.6g}", "" if cell.ci95 is None else f"{cell.ci95:.6g}"]
    plain = cell.replace("`", "").removeprefix("± ")
    return [plain, ""] if two else [plain]

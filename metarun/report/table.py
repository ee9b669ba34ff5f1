"""Tables of the runs that `+table=NAME` made, from their directories alone. Imports no torch."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

PUBLISHED = Path(__file__).resolve().parent / "published"
QUANTILE = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Student's t at 97.5 % for 2, 3, … 10 seeds."""

Seeds = dict[int, float]
"""A figure by seed."""

Rows = dict[tuple[str, ...], list[dict[str, Any]]]
"""Results by what tells a row from the others; one of each seed."""

FIGURES = ("acc", "bwt", "forgetting")
KEYS = ("algo", "stages", "order", "cl")
"""What may tell rows apart; what is the same in all of them is left out."""


def runs_of(name: str, folder: Path) -> Iterator[dict[str, Any]]:
    """The results of the finished runs under ``folder`` whose command said ``+table=NAME``."""
    for path in sorted(folder.rglob("results.json")):
        said = path.parent / ".hydra" / "overrides.yaml"
        if "superseded" in path.parts or not said.is_file() or f"+table={name}" not in yaml.safe_load(said.read_text()):
            continue
        results = json.loads(path.read_text())
        if results["status"] == "finished":
            yield results


def table(name: str, folder: Path) -> str:
    """Markdown: beside the published figures where there are some, else accuracy by length, or the figures of merit of streams."""
    if (PUBLISHED / f"{name}.yaml").is_file():
        return beside_published(name, folder)
    heads, rows = rows_of(name, folder)
    lengths = [found["length"] for runs in rows.values() for found in runs[0]["test"].get("by_length", [])]
    columns = dict.fromkeys(lengths) if lengths else dict.fromkeys([*FIGURES, "last stage", "online"])
    lines = []
    for what, runs in rows.items():
        cells = {column: cell({run["seed"]: figure(run, column) for run in runs}) for column in columns}
        lines.append([*(f"`{part}`" for part in what), *cells.values()])
    kept = [i for i in range(len(heads) + len(columns)) if i < len(heads) or any(line[i] for line in lines)]
    lines = [[*heads, *map(str, columns)], ["---"] * (len(heads) + len(columns)), *lines]
    return "\n".join("| " + " | ".join(line[i] for i in kept) + " |" for line in lines)


def rows_of(name: str, folder: Path) -> tuple[list[str], Rows]:
    """What tells the rows of a table apart, and its runs by it, in the order in which methods are written: none first."""
    found: Rows = defaultdict(list)
    for run in runs_of(name, folder):
        stream = run["continual"] or {"stages": [run["data"]], "order": "given"}
        # Stages are named by what divides them, and where: phase 0.00-0.79.
        stages = f"{run['data']} by {min(stream['stages']).split()[0]}" if run["continual"] else run["data"]
        found[run["algo"], stages, stream["order"], run["cl"]].append(run)
    varying = [i for i in range(len(KEYS)) if len({what[i] for what in found}) > 1] or [0]
    order = sorted(found, key=lambda what: (*what[:3], what[3] != "none", what[3]))
    return [KEYS[i] for i in varying], {tuple(what[i] for i in varying): found[what] for what in order}


def figure(run: Mapping[str, Any], column: str | int) -> float | None:
    """A run's figure of merit, last score on the last stage, online score, or score at a length; accuracies in per cent."""
    metric = "accuracy" if "accuracy" in run["test"] else "mse"
    value: float | None
    if isinstance(column, int):
        value = next((found["mean"] for found in run["test"].get("by_length", []) if found["length"] == column), None)
    elif column == "last stage":
        value = run["continual"]["R"][-1][-1]
    elif column == "online":
        value = (run["continual"]["online"] or {}).get(metric)
    else:
        value = run["continual"][column]
    return value if value is None or metric == "mse" else 100 * value


def beside_published(name: str, folder: Path) -> str:
    """A table for each scenario: final accuracy of each method, the published one, the paired gain over `none`."""
    measured: dict[str, dict[str, Seeds]] = defaultdict(lambda: defaultdict(dict))
    for run in runs_of(name, folder):
        measured[run["continual"]["scenario"]][run["cl"]][run["seed"]] = 100 * run["continual"]["acc"]
    published: Mapping[str, Mapping[str, Any]] = yaml.safe_load((PUBLISHED / f"{name}.yaml").read_text())
    lines = []
    for scenario in ("task", "domain", "class"):
        beside = {method: row[scenario] for method, row in published.items() if scenario in row}
        found = measured[scenario]
        if not beside and not found:
            continue
        lines += [f"| {scenario}-incremental | measured, % | published, % | gain over `none` |", "| --- | --- | --- | --- |"]
        for method in [*beside, *sorted(found.keys() - beside.keys())]:
            seeds, none = found[method], found["none"]
            gain = {seed: value - none[seed] for seed, value in seeds.items() if seed in none and method != "none"}
            lines.append(f"| `{method}` | {cell(seeds)} | {beside.get(method, '')} | {cell(gain, sign='+')} |")
        lines.append("")
    return "\n".join(lines)


def cell(seeds: Mapping[int, float | None], sign: str = "") -> str:
    """Mean over seeds with its 95 % interval (Student's t) and the number of seeds; nothing where a seed has no figure."""
    values = np.array([value for value in seeds.values() if value is not None])
    if not len(values) or len(values) < len(seeds):
        return ""
    mean, interval = over_seeds([float(value) for value in values])
    if interval is None:
        return f"{mean:{sign}.2f} (1 seed)"
    return f"{mean:{sign}.2f} ± {interval:.2f} ({len(values)} seeds)"


def over_seeds(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its 95 % interval (Student's t), which one seed has not."""
    if len(values) == 1:
        return values[0], None
    quantile = QUANTILE[len(values) - 2] if len(values) - 2 < len(QUANTILE) else 1.96
    return float(np.mean(values)), float(quantile * np.std(values, ddof=1) / len(values) ** 0.5)

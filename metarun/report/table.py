"""A table of methods and scenarios from run directories, beside published figures. Imports no torch."""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

PUBLISHED = Path(__file__).resolve().parent / "published"
QUANTILE = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Student's t at 97.5 % for 2, 3, … 10 seeds."""

Seeds = dict[int, float]
"""A figure in per cent by seed."""


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
    """Markdown, a table for each scenario: final accuracy of each method, the published one, the paired gain over `none`."""
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


def cell(seeds: Seeds, sign: str = "") -> str:
    """Mean over seeds with its 95 % interval (Student's t) and the number of seeds."""
    if not seeds:
        return ""
    values = np.array(list(seeds.values()))
    if len(values) == 1:
        return f"{values[0]:{sign}.2f} (1 seed)"
    quantile = QUANTILE[len(values) - 2] if len(values) - 2 < len(QUANTILE) else 1.96
    return f"{values.mean():{sign}.2f} ± {quantile * values.std(ddof=1) / len(values) ** 0.5:.2f} ({len(values)} seeds)"

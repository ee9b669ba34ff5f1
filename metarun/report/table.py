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
    """Markdown: a row a method, measured and published final accuracy for each scenario, and paired gains over `none`."""
    measured: dict[str, dict[str, Seeds]] = defaultdict(lambda: defaultdict(dict))
    for run in runs_of(name, folder):
        measured[run["cl"]][run["continual"]["scenario"]][run["seed"]] = 100 * run["continual"]["acc"]
    published: Mapping[str, Mapping[str, Any]] = yaml.safe_load((PUBLISHED / f"{name}.yaml").read_text())
    scenarios = sorted({s for row in published.values() for s in row}, key=["task", "domain", "class"].index)
    heads = [f"{scenario}{what}" for scenario in scenarios for what in ("", ", published", ", gain over none")]
    lines = ["| `cl=` | " + " | ".join(heads) + " |", "| --- |" + " --- |" * len(heads)]
    for method in [*published, *sorted(measured.keys() - published.keys())]:
        cells = []
        for scenario in scenarios:
            seeds, none = measured[method][scenario], measured["none"][scenario]
            gain = {seed: value - none[seed] for seed, value in seeds.items() if seed in none} if method != "none" else {}
            cells += [cell(seeds), str(published.get(method, {}).get(scenario, "")), cell(gain, sign="+")]
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
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

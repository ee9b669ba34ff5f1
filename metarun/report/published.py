"""Published figures, from published.yaml. Imports no torch."""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from metarun.report.statistics import t_quantile

FILE = Path(__file__).with_name("published.yaml")
LOOKS = {"by_step": "step", "by_presentation": "presentation"}


class Published(NamedTuple):
    """A figure as a paper prints it: accuracies in per cent.

    Attributes:
        value: None where the paper has curves alone.
        ci95: its 95 % interval, reckoned by Student's t where a deviation or an error over seeds is printed; None: neither is.
        paper, table: where it stands.
        verified: paper, quoted or memory.
        notes: of the protocol.
    """

    value: float | None
    ci95: float | None
    paper: str
    table: str
    verified: str
    notes: str

    @property
    def source(self) -> str:
        """The table, its paper, and who has read it there."""
        number = self.table if self.table[0].isalpha() else f"table {self.table}"
        read = {"paper": "read there", "quoted": "as others quote it", "memory": "by memory, not checked"}[self.verified]
        return f"{papers()[self.paper]}, {number} ({read}){f': {self.notes}' if self.notes else ''}"


@cache
def published() -> dict[str, dict[str, Published]]:
    """By the row's name, then by what is looked at: `test`, or `step 5`, `presentation 2`."""
    found: dict[str, dict[str, Published]] = {}
    for table in _content()["tables"]:
        source = (table["paper"], str(table["table"]), table["verified"], table.get("notes", ""))
        for name, entry in table["figures"].items():
            values = {"test": entry["value"]} if "value" in entry else {}
            for key, look in LOOKS.items():
                values |= {f"{look} {number}": value for number, value in entry.get(key, {}).items()}
            found[name] = {look: Published(value, _interval(entry), *source) for look, value in values.items()}
    return found


def papers() -> dict[str, str]:
    """Papers by their short names."""
    known: dict[str, str] = _content()["papers"]
    return known


def _interval(entry: dict[str, Any]) -> float | None:
    if "n" not in entry:
        return entry.get("ci95")
    error = entry["se"] if "se" in entry else entry["sd"] / entry["n"] ** 0.5
    return float(t_quantile(entry["n"] - 1) * error)


@cache
def _content() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return content

"""Published values, from published.yaml. Imports no torch."""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from metarun.report.statistics import t_quantile

FILE = Path(__file__).with_name("published.yaml")
SERIES = {"by_step": "step", "by_presentation": "presentation"}
"""Keys of published.yaml that hold several values of a row, with the name under which each value is found (`step 5`)."""


class Printed(float):
    """A number that keeps its number of printed decimals: 98.80 is more precise than 98.8."""

    digits: int

    def __new__(cls, text: str) -> "Printed":
        number = super().__new__(cls, text)
        number.digits = len(text.partition(".")[2])
        return number


class _Loader(yaml.SafeLoader):
    """Reads YAML, with floats as `Printed`."""


_Loader.add_constructor("tag:yaml.org,2002:float", lambda _, node: Printed(node.value))


class Published(NamedTuple):
    """A value printed in a paper; accuracies are in per cent.

    Attributes:
        value: None if the paper shows only curves.
        ci95: its 95 % interval, computed by Student's t if the paper prints a deviation or an error over seeds; None: not printed.
        digits: decimals of the printed value.
        paper, table: its source.
        verified: how the value was obtained: paper, quoted or memory.
        notes: on the protocol.
    """

    value: float | None
    ci95: float | None
    digits: int
    paper: str
    table: str
    verified: str
    notes: str

    @property
    def source(self) -> str:
        """The paper, the table, and how the value was obtained."""
        number = self.table if self.table[0].isalpha() else f"table {self.table}"
        read = {"paper": "read in the paper", "quoted": "as quoted elsewhere", "memory": "from memory, not checked"}[self.verified]
        return f"{papers()[self.paper]}, {number} ({read}){f': {self.notes}' if self.notes else ''}"


@cache
def published() -> dict[str, dict[str, Published]]:
    """Published values by row name, then by score: `test`, or `step 5`, `presentation 2`."""
    result: dict[str, dict[str, Published]] = {}
    for table in _content()["tables"]:
        source = (table["paper"], str(table["table"]), table["verified"], table.get("notes", ""))
        for name, entry in table["figures"].items():
            values = {"test": entry["value"]} if "value" in entry else {}
            for key, kind in SERIES.items():
                values |= {f"{kind} {number}": value for number, value in entry.get(key, {}).items()}
            result[name] = {
                figure: Published(value, _interval(entry), getattr(value, "digits", 0), *source) for figure, value in values.items()
            }
    return result


def papers() -> dict[str, str]:
    """Citations of the papers by short name."""
    citations: dict[str, str] = _content()["papers"]
    return citations


def _interval(entry: dict[str, Any]) -> float | None:
    if "n" not in entry:
        return entry.get("ci95")
    error = entry["se"] if "se" in entry else entry["sd"] / entry["n"] ** 0.5
    return float(t_quantile(entry["n"] - 1) * error)


@cache
def _content() -> dict[str, Any]:
    content: dict[str, Any] = yaml.load(FILE.read_text(), _Loader)  # noqa: S506 - a SafeLoader
    return content

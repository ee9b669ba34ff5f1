"""Published figures, from published.yaml. Imports no torch."""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from metarun.report.statistics import t_quantile

FILE = Path(__file__).with_name("published.yaml")
LOOKS = {"by_step": "step", "by_presentation": "presentation"}


class Printed(float):
    """A number that remembers with how many decimals it is written: 98.80 is known more exactly than 98.8."""

    digits: int

    def __new__(cls, text: str) -> "Printed":
        number = super().__new__(cls, text)
        number.digits = len(text.partition(".")[2])
        return number


class _Loader(yaml.SafeLoader):
    """YAML whose numbers with a point are `Printed`."""


_Loader.add_constructor("tag:yaml.org,2002:float", lambda _, node: Printed(node.value))


class Published(NamedTuple):
    """A figure as a paper prints it: accuracies in per cent.

    Attributes:
        value: None where the paper has curves alone.
        ci95: its 95 % interval, reckoned by Student's t where a deviation or an error over seeds is printed; None: neither is.
        digits: decimals of the value as printed.
        paper, table: where it stands.
        verified: paper, quoted or memory.
        notes: of the protocol.
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
            found[name] = {
                look: Published(value, _interval(entry), getattr(value, "digits", 0), *source) for look, value in values.items()
            }
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
    content: dict[str, Any] = yaml.load(FILE.read_text(), _Loader)  # noqa: S506 - a SafeLoader
    return content

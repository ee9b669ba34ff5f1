"""Records of published cells that were run under their whole protocol: one small file a cell, kept when run directories go.

A record is JSON: the cell's name and command, the protocol that its runs had, and the figures of each seed with what they were
measured under. `scripts/reproduce.py` writes records, `metarun/report/board.py` reads them. Imports no torch.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from metarun.config import CONFIGS, FORMER, ConfigError
from metarun.files import replacing
from metarun.metric import KNOWN
from metarun.report import sweeps
from metarun.report.protocol import flat
from metarun.report.published import Published, published
from metarun.report.runs import ASIDE, Run
from metarun.report.scores import score

FINAL = ("finished", "diverged")
"""Statuses of runs that are recorded: running them again would give the same."""

OWN = {"reference", "budget.name", "budget.share", "budget.operations", "budget.test_tasks"}
"""Keys beside `ASIDE` that change no figure of a run that was not cut short."""


@dataclass(frozen=True)
class Cell:
    """A cell of a paper's table, or several that one run fills (a cell by number of inner steps).

    Attributes:
        name: of its row in published.yaml.
        overrides: of the command that runs it, the seed left out.
        published: the printed figures by the figure of a run that is compared with them (`test`, `step 5`, `acc`).
    """

    name: str
    overrides: tuple[str, ...]
    published: Mapping[str, Published]

    @property
    def command(self) -> str:
        """The command line, the seed left out."""
        return " ".join(("metarun", *self.overrides))


@dataclass
class Measured:
    """What one seed found: figures as (mean, 95 % interval over tasks), accuracies in per cent, null where not finite."""

    seed: int
    status: str
    figures: dict[str, list[float | None]]
    updates: int
    test_tasks: int | None
    seconds: float
    """Of training."""
    digest: str | None
    """Of the test tasks."""
    device: str
    torch: str
    commit: str | None
    resumed: int = 0
    """How often it was continued from a checkpoint."""


@dataclass
class Record:
    """A cell's runs."""

    cell: str
    command: str
    metric: str
    """Its name, one of `metarun.metric.KNOWN`."""
    protocol: dict[str, Any]
    """See `protocol`."""
    runs: list[Measured] = field(default_factory=list)

    def add(self, measured: Measured) -> None:
        """Add a seed's run, in place of an earlier one of that seed."""
        self.runs = sorted([*(run for run in self.runs if run.seed != measured.seed), measured], key=lambda run: run.seed)


@cache
def cells() -> dict[str, Cell]:
    """All cells that have a printed value, by name, in the order of published.yaml."""
    streams = dict(_streams())
    found = {}
    for name, looks in published().items():
        known = {look: value for look, value in looks.items() if value.value is not None}
        if not known:
            continue
        if (CONFIGS / "paper" / f"{name}.yaml").is_file():
            found[name] = Cell(name, (f"+paper={name}",), known)
        elif name in streams:
            found[name] = Cell(name, streams[name], {"acc": known["test"]})
    return found


def protocol(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a composed configuration computes, by full keys: all but the seed, the machine and the names of metarun's classes."""
    return {key: value for key, value in flat(config) if key not in ASIDE | OWN and not _own_class(key, value)}


def departures(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys in which two protocols differ, with both values; a key that came later counts with what was done before."""
    keys = dict.fromkeys((*then, *now))
    both = {key: (then.get(key, FORMER.get(key)), now.get(key, FORMER.get(key))) for key in keys}
    return {key: values for key, values in both.items() if values[0] != values[1]}


def start(cell: Cell, run: Run) -> Record:
    """A record of ``cell`` without figures, of the protocol that ``run`` had."""
    return Record(cell.name, cell.command, run.metric.name, protocol(run.configuration))


def measure(run: Run, cell: Cell) -> Measured:
    """The record of a run of ``cell``.

    Raises:
        ConfigError: the run is not finished, was cut short, or departs from the cell's protocol.
    """
    if run.status not in FINAL:
        raise ConfigError(f"{run.path}: the run is {run.status}; expected one of {', '.join(FINAL)}")
    told = {override.lstrip("+").partition("=")[0] for override in cell.overrides}
    changed = run.changes(told)
    if changed:
        raise ConfigError(f"{run.path}: departs from the protocol of {cell.name}: {', '.join(changed)}")
    if not run.full:
        raise ConfigError(f"{run.path}: not all updates or test tasks of {cell.name}")
    results, environment = run.results, run.results["environment"]
    diverged = run.status == "diverged"
    figures: dict[str, list[float | None]] = {}
    for look in cell.published:
        mean, ci95 = (None, None) if diverged else score(run, look)
        figures[look] = [_finite(mean), _finite(ci95)]
    train = results.get("train") or {}
    return Measured(
        seed=run.seed,
        status=run.status,
        figures=figures,
        updates=run.updates,
        test_tasks=None if diverged else (results.get("protocol") or {}).get("n_test_tasks"),
        seconds=float(train.get("seconds", 0.0)),
        digest=(results.get("tested") or {}).get("digest"),
        device=environment["device"],
        torch=environment["torch"],
        commit=environment.get("git"),
        resumed=len(train.get("resumed_at", [])),
    )


def write(record: Record, folder: Path) -> Path:
    """Write a record into ``folder`` → its file."""
    path = folder / f"{record.cell}.json"
    with replacing(path) as file:
        file.write((json.dumps(asdict(record), indent=1) + "\n").encode())
    return path


def read(folder: Path) -> dict[str, Record]:
    """The records in ``folder`` by cell.

    Raises:
        ConfigError: one of them is no record.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text())
            record = Record(**{**content, "runs": [Measured(**run) for run in content["runs"]]})
            if record.metric not in KNOWN:
                raise ValueError(f"metric={record.metric}: expected {' or '.join(KNOWN)}")
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{path}: not a record of a published cell ({error})") from None
        found[record.cell] = record
    return found


def _own_class(key: str, value: Any) -> bool:
    return key.endswith("_target_") and str(value).startswith("metarun.")


def _streams() -> Iterable[tuple[str, tuple[str, ...]]]:
    """Cells of continual learning, named by data, scenario and method, with the overrides of the table that holds them."""
    for sweep in map(sweeps.read, sweeps.names()):
        for grid in sweep.grids if sweep.data else []:
            for values in product(*grid.values()):
                told = dict(zip(grid, values, strict=True))
                overrides = (f"{key}={value}" for key, value in told.items())
                yield sweeps.published_name(sweep.data, told), (f"+table={sweep.name}", *overrides)


def _finite(value: float | None) -> float | None:
    return None if value is None or value != value or abs(value) == float("inf") else value

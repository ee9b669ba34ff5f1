"""Records of published results measured under their full protocol: one small JSON file per cell, kept without the run directories.

A record holds the cell's name and command, the protocol of its runs, and each seed's results with the conditions under which they
were measured. `scripts/reproduce.py` writes records, `metarun/report/board.py` reads them. Imports no torch.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from metarun.config import CONFIGS, ConfigError, flat, names_own_class
from metarun.files import replacing
from metarun.metric import KNOWN
from metarun.report import sweeps
from metarun.report.published import Published, published
from metarun.report.runs import NOT_DISTINCTIVE, Run
from metarun.report.scores import score

FINAL = ("finished", "diverged")
"""Statuses of runs that are recorded: rerunning them would give the same results."""

IGNORED_IF_FULL = {"reference", "budget.name", "budget.share", "budget.operations", "budget.test_tasks"}
"""Keys that, besides `NOT_DISTINCTIVE`, do not affect the results of a run with a full budget."""


@dataclass(frozen=True)
class Cell:
    """A cell of a paper's table, or several cells measured by one run (one per number of inner steps).

    Attributes:
        name: of its row in published.yaml.
        overrides: of the command that runs it, without the seed.
        published: the printed value for each score of a run (`test`, `step 5`, `acc`; see `metarun.report.scores.score`).
    """

    name: str
    overrides: tuple[str, ...]
    published: Mapping[str, Published]

    @property
    def command(self) -> str:
        """The command line, without the seed."""
        return " ".join(("metarun", *self.overrides))


@dataclass
class Measured:
    """The results of one seed: scores as (mean, 95 % interval over tasks), accuracies in per cent, null where not finite."""

    seed: int
    status: str
    figures: dict[str, list[float | None]]
    updates: int
    test_tasks: int | None
    seconds: float
    """Training time."""
    digest: str | None
    """Digest of the test tasks."""
    device: str
    torch: str
    commit: str | None
    resumed: int = 0
    """How often the run was resumed from a checkpoint."""


@dataclass
class Record:
    """The runs of a cell."""

    cell: str
    command: str
    metric: str
    """Name of the metric, one of `metarun.metric.KNOWN`."""
    protocol: dict[str, Any]
    """See `protocol`."""
    runs: list[Measured] = field(default_factory=list)

    def add(self, measured: Measured) -> None:
        """Add the run of a seed, replacing an earlier run of that seed."""
        self.runs = sorted([*(run for run in self.runs if run.seed != measured.seed), measured], key=lambda run: run.seed)


@cache
def cells() -> dict[str, Cell]:
    """All cells that have a printed value, by name, in the order of published.yaml."""
    streams = dict(_streams())
    result = {}
    for name, values in published().items():
        printed = {figure: value for figure, value in values.items() if value.value is not None}
        if not printed:
            continue
        if (CONFIGS / "paper" / f"{name}.yaml").is_file():
            result[name] = Cell(name, (f"+paper={name}",), printed)
        elif name in streams:
            result[name] = Cell(name, streams[name], {"acc": printed["test"]})
    return result


def protocol(config: Mapping[str, Any]) -> dict[str, Any]:
    """The protocol of a composed configuration, by full key: all but the seed, the machine and the names of metarun's classes."""
    ignored = NOT_DISTINCTIVE | IGNORED_IF_FULL
    return {key: value for key, value in flat(config) if key not in ignored and not names_own_class(key, value)}


def start(cell: Cell, run: Run) -> Record:
    """An empty record of ``cell``, with the protocol of ``run``."""
    return Record(cell.name, cell.command, run.metric.name, protocol(run.configuration))


def measure(run: Run, cell: Cell) -> Measured:
    """The entry of a run in the record of ``cell``.

    Raises:
        ConfigError: the run has not finished, had a short budget, or departs from the cell's protocol.
    """
    if run.status not in FINAL:
        raise ConfigError(f"{run.path}: the run is {run.status}; expected one of {', '.join(FINAL)}")
    changed = run.changes(override.lstrip("+").partition("=")[0] for override in cell.overrides)
    if changed:
        raise ConfigError(f"{run.path}: departs from the protocol of {cell.name}: {', '.join(changed)}")
    if not run.full:
        raise ConfigError(f"{run.path}: the run has fewer updates or test tasks than {cell.name}")
    results, environment = run.results, run.results["environment"]
    diverged = run.status == "diverged"
    figures: dict[str, list[float | None]] = {}
    for figure in cell.published:
        mean, ci95 = (None, None) if diverged else score(run, figure)
        figures[figure] = [_finite(mean), _finite(ci95)]
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
    """The records in ``folder``, by cell.

    Raises:
        ConfigError: a file is not a record.
    """
    records = {}
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text())
            record = Record(**{**content, "runs": [Measured(**run) for run in content["runs"]]})
            if record.metric not in KNOWN:
                raise ValueError(f"metric={record.metric}: expected {' or '.join(KNOWN)}")
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{path}: not a record of a published cell ({error})") from None
        records[record.cell] = record
    return records


def _streams() -> Iterable[tuple[str, tuple[str, ...]]]:
    """The cells of continual-learning tables, named by data set, scenario and method, with the overrides of their runs."""
    for sweep in map(sweeps.read, sweeps.names()):
        for grid in sweep.grids if sweep.data else []:
            for values in product(*grid.values()):
                settings = dict(zip(grid, values, strict=True))
                overrides = (f"{key}={value}" for key, value in settings.items())
                yield sweeps.published_name(sweep.data, settings), (f"+table={sweep.name}", *overrides)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value

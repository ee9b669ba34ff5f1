"""Run published cells under their full protocol, record the results, and write the board docs/reproduced.md.

    python scripts/reproduce.py --minutes 150               missing or stale runs, cheapest first, on one core
    python scripts/reproduce.py --minutes 60 --only 'split_mnist_*' --seeds 20
    python scripts/reproduce.py --plan                      list the runs to do, with estimated minutes
    python scripts/reproduce.py --board                     rewrite the page from the records

Each cell starts with three seeds and gets more, up to --seeds, while its verdict is inconclusive. Run directories are in
outputs/reproduce/; a run interrupted by the time limit is resumed the next time. Each finished run is recorded at once in
docs/reproduced/, so its run directory may be deleted. A run that cannot finish within the time limit is not started without
--begin. Estimates are counted operations times the speed of the runs recorded so far.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from statistics import median

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from metarun.config import CONFIGS, ConfigError, differences
from metarun.files import replacing
from metarun.parts import build_parts
from metarun.report import board
from metarun.report.records import FINAL, Cell, Record, cells, measure, protocol, read, start, write
from metarun.report.runs import Run, collect
from metarun.report.verdict import SEEDS
from metarun.trainer.evaluation import work_of

DOCS = Path(__file__).parents[1] / "docs"
README = DOCS.parent / "README.md"
MARKS = ("<!-- board -->", "<!-- /board -->")
UPDATE = 0.7e-3
"""Overhead of an update in seconds, besides its operations."""
SPEED = 1e10
"""Assumed floating-point operations per second of one core, as long as nothing is recorded."""


@dataclass(frozen=True)
class Job:
    """A run to do: one seed of a cell."""

    cell: Cell
    seed: int
    folder: Path
    seconds: float
    """Estimated time."""

    @property
    def begun(self) -> bool:
        return (self.folder / "checkpoints" / "last.pt").is_file()

    def command(self, device: str) -> list[str]:
        keys = ["trainer.threads=1", f"trainer.device={device}", "trainer.tensorboard=false", "trainer.figures=false"]
        return [sys.executable, "-m", "metarun", *self.cell.overrides, f"seed={self.seed}", *keys, f"hydra.run.dir={self.folder}"]


class Work:
    """Estimates the time of each cell by counting operations; the parts of a cell are built once."""

    def __init__(self, records: dict[str, Record]) -> None:
        self.records = records
        self.known: dict[str, float | None] = {}

    def possible(self, cell: Cell) -> bool:
        """Whether the cell can be run here; if its data are missing, this is reported once."""
        if cell.name not in self.known:
            try:
                self.known[cell.name] = self.of(cell)
            except ConfigError as error:
                self.known[cell.name] = None
                print(f"{cell.name}: skipped: {error}", flush=True)
        return self.known[cell.name] is not None

    def of(self, cell: Cell) -> float:
        """Estimated seconds on one core, from the counted operations alone.

        Raises:
            ConfigError: the cell cannot be run here.
        """
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            parts = build_parts(compose("config", list(cell.overrides)))
        task = parts.stages[0].train.sample(torch.arange(1))
        passes = work_of(parts.algorithm, task) * parts.algorithm.passes(task)
        stages = len(parts.stages)
        updates = parts.trainer.iterations * stages if parts.algorithm.trains else 0
        tests = parts.trainer.test_tasks * stages * (stages + 1 if stages > 1 else 1)
        operations = 3 * passes * (updates * parts.trainer.tasks + tests)
        return updates * UPDATE + operations / SPEED

    def seconds(self, cell: Cell) -> float:
        """Estimated seconds: those of the cell's recorded runs, else the count scaled by the ratio for other recorded cells."""
        own = self.records.get(cell.name)
        if own and own.runs:
            return 1.2 * float(median(run.seconds for run in own.runs))  # plus validation and test
        factors = [
            median(run.seconds for run in record.runs) / known
            for name, record in self.records.items()
            if record.runs and (known := self.known.get(name))
        ]
        return (self.known[cell.name] or 0.0) * (median(factors) if factors else 1.0) * 1.2


def wanted(cell: Cell, record: Record | None, most: int) -> range:
    """The seeds to run: three; while a verdict is inconclusive, the number of seeds wanted, and finally ``most``."""
    entries = [board.Entry(cell, figure, value, record) for figure, value in cell.published.items()]
    have = len(record.runs) if record else 0
    if have < SEEDS or all(entry.verdict != "inconclusive" for entry in entries):
        return range(SEEDS)
    planned = max(entry.seeds_wanted for entry in entries)
    return range(min(most, planned if have < planned else most))


def jobs(records: dict[str, Record], work: Work, options: argparse.Namespace) -> Iterator[Job]:
    """The missing runs of the cells whose names match ``options.only`` and that can be run here."""
    for name, cell in cells().items():
        if not fnmatch(name, options.only):
            continue
        record = records.get(name)
        have = {run.seed for run in record.runs} if record else set()
        missing = [seed for seed in wanted(cell, record, options.seeds) if seed not in have]
        if missing and work.possible(cell):
            seconds = work.seconds(cell)
            yield from (Job(cell, seed, options.runs / name / str(seed), seconds) for seed in missing)


def drop_stale(records: dict[str, Record]) -> None:
    """Drop and report the records whose protocol is no longer that of their cell."""
    for name, record in list(records.items()):
        changed = stale(record)
        if changed:
            print(f"{name}: stale: {', '.join(f'{key} was {then}, is {now}' for key, (then, now) in changed.items())}")
            del records[name]


def stale(record: Record) -> dict[str, tuple[object, object]]:
    """The keys in which the cell's present protocol differs from the record's."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("config", list(cells()[record.cell].overrides))
    return differences(record.protocol, protocol(OmegaConf.to_container(config, resolve=True)))  # type: ignore[arg-type]


def record_runs(records: dict[str, Record], runs: Iterable[Run], folder: Path) -> None:
    """Record the runs that belong to a published cell and have ended."""
    for run in runs:
        if run.status not in FINAL:
            continue
        cell = cell_of(run)
        if cell is None:
            continue
        try:
            measured = measure(run, cell)
        except ConfigError as error:
            print(f"not recorded: {error}")
            continue
        record = records.setdefault(cell.name, start(cell, run))
        record.add(measured)
        write(record, folder)


def cell_of(run: Run) -> Cell | None:
    """The published cell of a run, by the run's overrides; None: no such cell."""
    overrides = {f"{key}={value}" for key, value in run.overrides.items()}
    for cell in cells().values():
        if {override.lstrip("+") for override in cell.overrides} <= overrides:
            return cell
    return None


def write_board(records: dict[str, Record], docs: Path = DOCS, readme: Path = README) -> None:
    """Write docs/reproduced.md, and the totals between the two markers in the README."""
    entries = board.board(records)
    with replacing(docs / "reproduced.md") as file:
        file.write(board.markdown(entries).encode())
    text = readme.read_text()
    before, _, rest = text.partition(MARKS[0])
    if rest:
        _, _, after = rest.partition(MARKS[1])
        with replacing(readme) as file:
            file.write(f"{before}{MARKS[0]}{board.totals(entries)}{MARKS[1]}{after}".encode())


class Runner:
    """Runs jobs on each core, one after another, until the time is over or no run is missing."""

    def __init__(self, records: dict[str, Record], options: argparse.Namespace) -> None:
        self.records, self.options = records, options
        self.end: float = time.monotonic() + 60 * options.minutes
        self.work = Work(records)
        self.running: list[tuple[Job, subprocess.Popen[bytes]]] = []
        self.tried: set[Path] = set()

    def run(self) -> None:
        try:
            while self.left > 0 and (self._begin() or self.running):
                time.sleep(1)
                for job, process in list(self.running):
                    if process.poll() is not None:
                        self._end(job, process)
        finally:
            for _, process in self.running:  # each writes a checkpoint and is resumed the next time
                process.send_signal(signal.SIGINT)
            for job, process in list(self.running):
                self._end(job, process)

    @property
    def left(self) -> float:
        """Seconds left."""
        return self.end - time.monotonic()

    def _begin(self) -> bool:
        """Start the cheapest job that fits, preferring interrupted ones; False: no such job, or no free core."""
        if len(self.running) >= self.options.cores:
            return False
        missing = [job for job in jobs(self.records, self.work, self.options) if job.folder not in self.tried]
        fits = [job for job in missing if self.options.begin or job.begun or job.seconds <= self.left]
        if not fits:
            if not self.running:
                print(f"{len(missing)} runs are missing, but none fits into the time left" if missing else "no run is missing")
            return False
        job = min(fits, key=lambda job: (not job.begun, job.seconds))
        self.tried.add(job.folder)
        job.folder.parent.mkdir(parents=True, exist_ok=True)
        with (job.folder.parent / f"{job.seed}.log").open("ab") as output:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            command = job.command(self.options.device)
            self.running.append((job, subprocess.Popen(command, stdout=output, stderr=output, env=environment)))
        print(f"{job.cell.name} seed {job.seed}: about {job.seconds / 60:.1f} minutes", flush=True)
        return True

    def _end(self, job: Job, process: subprocess.Popen[bytes]) -> None:
        status = process.wait()
        self.running.remove((job, process))
        if (job.folder / ".hydra").is_dir():
            record_runs(self.records, collect([job.folder]), self.options.records)
        write_board(self.records)
        print(f"{job.cell.name} seed {job.seed}: status {status}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="time limit; interrupted runs are resumed the next time")
    parser.add_argument("--cores", type=int, default=1, help="number of parallel runs, one thread each")
    parser.add_argument("--only", default="*", metavar="PATTERN", help="only cells whose names match, such as 'maml_sine*'")
    parser.add_argument("--seeds", type=int, default=10, help="maximum number of seeds per cell")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--begin", action="store_true", help="also start runs that cannot finish within the time limit")
    parser.add_argument("--plan", action="store_true", help="list the missing runs without running them")
    parser.add_argument("--board", action="store_true", help="write the board from the records without running anything")
    parser.add_argument(
        "--record", type=Path, nargs="+", default=[], metavar="RUNS", help="record the finished runs in these folders"
    )
    parser.add_argument("--runs", type=Path, default=Path("outputs/reproduce"), help="folder of the run directories")
    parser.add_argument("--records", type=Path, default=DOCS / "reproduced", help="folder of the records")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell's background job ignores the first one otherwise
        signal.signal(number, signal.default_int_handler)
    options.records.mkdir(parents=True, exist_ok=True)
    records = read(options.records)
    if options.record:
        record_runs(records, collect(options.record), options.records)
    drop_stale(records)
    if options.plan:
        for job in sorted(jobs(records, Work(records), options), key=lambda job: job.seconds):
            print(f"{job.cell.name} seed {job.seed}: about {job.seconds / 60:.0f} minutes{', begun' if job.begun else ''}")
    elif not (options.board or options.record):
        Runner(records, options).run()
    write_board(records)


if __name__ == "__main__":
    main()

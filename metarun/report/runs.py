"""Reads run directories for reports. Imports no torch."""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import yaml
from numpy.typing import NDArray

from metarun.config import IGNORED, ConfigError
from metarun.files import json_lines, read_results
from metarun.metric import Metric, recorded
from metarun.report.protocol import departures, repeats

log = logging.getLogger(__name__)

Numbers = NDArray[np.float64]

NOT_RUNS = {"superseded", "eval", "checkpoints", "figures"}
"""Folders inside a run directory that are not runs themselves."""

NOT_DISTINCTIVE = IGNORED | {"table", "paper", "budget"}
"""Keys whose overrides do not distinguish runs: they do not affect training, or reports show them separately."""


@dataclass(frozen=True)
class Run:
    """A run directory: the overrides of its command, and its results so far."""

    path: Path
    results: dict[str, Any]
    overrides: dict[str, str]
    """The command's overrides, values by key."""

    @property
    def status(self) -> str:
        """The status in results.json, or unfinished."""
        return str(self.results.get("status", "unfinished"))

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def seed(self) -> int:
        return int(self.results.get("seed", self.overrides.get("seed", 0)))

    @property
    def metric(self) -> Metric:
        """The metric of its test."""
        return recorded(self.results)

    @property
    def test(self) -> Mapping[str, Any]:
        """The mean test score with its interval and the number of tasks."""
        summary: Mapping[str, Any] = self.results["test"][self.metric.name]
        return summary

    @property
    def updates(self) -> int:
        """Number of outer updates made, over all stages; 0 if nothing was trained."""
        return int((self.results.get("train") or {}).get("iterations", 0))

    @property
    def budget(self) -> str:
        """Name of the budget (`full` by default), followed by the command's overrides of its keys."""
        recorded_budget = self.results.get("budget") or {}
        changes = [f"{key.partition('.')[2]}={_short(value)}" for key, value in self.overrides.items() if key.startswith("budget.")]
        return " ".join([recorded_budget.get("name", self.overrides.get("budget", "full")), *changes])

    @property
    def full(self) -> bool:
        """Whether the run made all updates and used all test tasks of its protocol."""
        budget = self.results.get("budget") or {}
        tested, expected = (self.results.get("protocol") or {}).get("n_test_tasks"), self.test_tasks
        tests_cut = tested is not None and expected is not None and tested < expected
        return bool(budget.get("share", 1.0) >= 1 and budget.get("name", "full") == "full" and not tests_cut)

    @cached_property
    def test_tasks(self) -> int | None:
        """Number of test tasks in the composed configuration, before any budget cut; None if it is not available."""
        count = (self.configuration.get("trainer") or {}).get("test_tasks")
        return count if isinstance(count, int) else None

    @cached_property
    def configuration(self) -> Mapping[str, Any]:
        """The composed configuration, before any budget cut; empty if it is not available."""
        try:
            config = yaml.safe_load((self.path / ".hydra" / "config.yaml").read_text())
        except (OSError, yaml.YAMLError):
            return {}
        return config if isinstance(config, Mapping) else {}

    @cached_property
    def former(self) -> list[str]:
        """The run's values, as `model.eps=1e-05`, that its paper's row or table no longer has, except those its command sets."""
        if not self.configuration:
            return []
        changed = departures(self.configuration, self.overrides.get("table", ""), "table")
        changed |= departures(self.configuration, self.overrides.get("paper", ""))
        return [
            f"{key}={_written(value)}" for key, value in changed.items() if not any(_within(key, own) for own in self.overrides)
        ]

    def changes(self, known: Iterable[str], given: Mapping[str, str] | None = None) -> list[str]:
        """What distinguishes the run: overrides of its command, and `former` values of its row or table.

        Omitted are overrides without effect, those that repeat what the run's table or row sets, those of ``known`` keys, and those
        equal to the values ``given``.
        """
        ignored = NOT_DISTINCTIVE | set(known)
        table, paper = self.overrides.get("table", ""), self.overrides.get("paper", "")
        overrides = [
            f"{key}={value}"
            for key, value in self.overrides.items()
            if key not in ignored and key.split(".")[0] not in ("hydra", "budget") and (given or {}).get(key) != value
            if not repeats(self.configuration, key, value, table, paper)
        ]
        return overrides + self.former

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The complete lines of metrics.jsonl."""
        return json_lines(self.path / "metrics.jsonl")

    @cached_property
    def tested(self) -> tuple[str, Path] | None:
        """The digest of the test tasks and the folder with the scores on them; None if no result records the test tasks.

        A run of a version that did not record them has both after `metarun eval RUN`, without overrides.
        """
        for folder, results in ((self.path, self.results), *self._evaluations()):
            record = results.get("tested")
            if isinstance(record, Mapping) and record.get("digest") and not results.get("overrides"):
                return str(record["digest"]), folder
        return None

    def _evaluations(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        for path in sorted(self.path.glob("eval/*/results.json")):
            yield path.parent, read_results(path) or {}

    @cached_property
    def task_scores(self) -> Numbers | None:
        """The test scores (tasks,) whose mean is reported, stages ordered by name; None: not available, or not all finite."""
        folder = self.tested[1] if self.tested else self.path
        path = folder / "test.npz"
        test = ((read_results(folder / "results.json") if folder != self.path else None) or self.results)["test"]
        steps = [row["step"] for row in test.get("by_step", [])]
        step = steps.index(test["steps"]["n"]) if test.get("steps") else -1
        try:
            with path.open("rb") as opened, np.load(opened) as file:
                scores: Numbers = file["scores"][np.argsort(file["stages"]), step]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            log.warning("%s: cannot be read (%s); its scores are left out", path, error)
            return None
        scores = scores[~np.isnan(scores)]  # stages with fewer tasks than others are padded with NaN
        complete = len(scores) == self.test["n_tasks"] and np.isfinite(scores).all()
        return scores if complete else None


def collect(paths: Iterable[Path]) -> list[Run]:
    """The runs in ``paths``, each a run directory or a folder that contains run directories at any depth.

    Raises:
        ConfigError: a folder does not exist, or contains no runs.
    """
    runs: dict[Path, Run] = {}
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"{path}: no such folder")
        inside = {folder: _read(folder) for folder in _folders(path)}
        if not inside:
            raise ConfigError(f"{path}: expected a run directory, or a folder that contains run directories")
        runs |= inside
    return list(runs.values())


def _folders(path: Path) -> Iterator[Path]:
    for folder, inside, _ in os.walk(path):
        if ".hydra" in inside:
            yield Path(folder)
        inside[:] = sorted(name for name in inside if name not in NOT_RUNS and name[0] != ".")


def _read(folder: Path) -> Run:
    try:
        overrides = yaml.safe_load((folder / ".hydra" / "overrides.yaml").read_text()) or []
    except (OSError, yaml.YAMLError):
        overrides = []
    results = read_results(folder / "results.json") or {}
    pairs = (str(override).partition("=") for override in overrides)
    return Run(folder, results, {key.lstrip("+"): value for key, _, value in pairs})


def _short(number: str) -> str:
    """A large number in short form, 3e+11; Hydra writes out all its digits."""
    try:
        return f"{float(number):g}" if abs(float(number)) >= 1e6 else number
    except ValueError:
        return number


def _within(key: str, other: str) -> bool:
    """Whether ``other`` is the key itself or a node that contains it, as `trainer.scheduler` contains `trainer.scheduler.gamma`."""
    return f"{key}.".startswith(f"{other}.")


def _written(value: Any) -> str:
    """A value as typed on the command line."""
    return value if isinstance(value, str) else json.dumps(value)

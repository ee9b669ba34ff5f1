"""Run directories as reports read them. Imports no torch."""

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

from metarun.config import NO_EFFECT, ConfigError
from metarun.files import json_lines, read_results
from metarun.metric import Metric, recorded
from metarun.report.protocol import departures, repeats

log = logging.getLogger(__name__)

Numbers = NDArray[np.float64]

NOT_RUNS = {"superseded", "eval", "checkpoints", "figures"}
"""Folders in a run directory that hold no run of their own."""

ASIDE = {f"{node}.{key}" if node else key for node, keys in NO_EFFECT.items() for key in keys} | {"table", "paper", "budget"}
"""What a command may say without changing what is trained, or what tells itself otherwise."""


@dataclass(frozen=True)
class Run:
    """A run directory: what its command said, and what its results are, as far as there are any."""

    path: Path
    results: dict[str, Any]
    said: dict[str, str]
    """Values by key, of the command's overrides."""

    @property
    def status(self) -> str:
        """That in results.json, or unfinished."""
        return str(self.results.get("status", "unfinished"))

    @property
    def finished(self) -> bool:
        return self.status == "finished"

    @property
    def seed(self) -> int:
        return int(self.results.get("seed", self.said.get("seed", 0)))

    @property
    def metric(self) -> Metric:
        """What its test measured."""
        return recorded(self.results)

    @property
    def test(self) -> Mapping[str, Any]:
        """The mean of the test with its interval and the number of tasks."""
        found: Mapping[str, Any] = self.results["test"][self.metric.name]
        return found

    @property
    def updates(self) -> int:
        """Outer updates that were made, of all stages; 0 where nothing was trained."""
        return int((self.results.get("train") or {}).get("iterations", 0))

    @property
    def budget(self) -> str:
        """Its name, full where it is not told, and what the command changed of it."""
        told = self.results.get("budget") or {}
        own = [f"{key.partition('.')[2]}={_short(value)}" for key, value in self.said.items() if key.startswith("budget.")]
        return " ".join([told.get("name", self.said.get("budget", "full")), *own])

    @property
    def full(self) -> bool:
        """Whether all updates of the protocol were made, and all of its test tasks."""
        told = self.results.get("budget") or {}
        tested, wanted = (self.results.get("protocol") or {}).get("n_test_tasks"), self.test_tasks
        tests_cut = tested is not None and wanted is not None and tested < wanted
        return bool(told.get("share", 1.0) >= 1 and told.get("name", "full") == "full" and not tests_cut)

    @cached_property
    def test_tasks(self) -> int | None:
        """Test tasks of the protocol, from the configuration as composed, before a budget cut it; None where that is not there."""
        found = (self.configuration.get("trainer") or {}).get("test_tasks")
        return found if isinstance(found, int) else None

    @cached_property
    def configuration(self) -> Mapping[str, Any]:
        """The configuration as composed, before a budget cut it; empty where it is not there."""
        try:
            found = yaml.safe_load((self.path / ".hydra" / "config.yaml").read_text())
        except (OSError, yaml.YAMLError):
            return {}
        return found if isinstance(found, Mapping) else {}

    @cached_property
    def former(self) -> list[str]:
        """Values of its paper's row or table that they no longer have, as `model.eps=1e-05`; not those of the command line."""
        if not self.configuration:
            return []
        found = departures(self.configuration, self.said.get("table", ""), "table")
        found |= departures(self.configuration, self.said.get("paper", ""))
        return [f"{key}={_written(value)}" for key, value in found.items() if not any(_within(key, own) for own in self.said)]

    def changes(self, known: Iterable[str], given: Mapping[str, str] | None = None) -> list[str]:
        """What sets the run apart: overrides of the command and values of a `former` row.

        Left out are overrides that change nothing, those that repeat what the run's table or row sets, those of ``known`` keys, and
        the values that are ``given``.
        """
        aside = ASIDE | set(known)
        table, paper = self.said.get("table", ""), self.said.get("paper", "")
        said = [
            f"{key}={value}"
            for key, value in self.said.items()
            if key not in aside and key.split(".")[0] not in ("hydra", "budget") and (given or {}).get(key) != value
            if not repeats(self.configuration, key, value, table, paper)
        ]
        return said + self.former

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl that are whole."""
        return json_lines(self.path / "metrics.jsonl")

    @cached_property
    def tested(self) -> tuple[str, Path] | None:
        """The digest of the test tasks and the folder with the scores on them; None where no result records what was tested.

        A run of a version that did not record it has both once `metarun eval RUN` has tested it again, without any override.
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
        """Scores of the test tasks behind the figure, (tasks,), stage after stage by name; None: unknown, or not all finite."""
        folder = self.tested[1] if self.tested else self.path
        path = folder / "test.npz"
        test = ((read_results(folder / "results.json") if folder != self.path else None) or self.results)["test"]
        steps = [row["step"] for row in test.get("by_step", [])]
        look = steps.index(test["steps"]["n"]) if test.get("steps") else -1
        try:
            with path.open("rb") as opened, np.load(opened) as file:
                scores: Numbers = file["scores"][np.argsort(file["stages"]), look]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            log.warning("%s: not readable (%s): left out", path, error)
            return None
        scores = scores[~np.isnan(scores)]  # stages with fewer tasks than another are filled up with NaN
        whole = len(scores) == self.test["n_tasks"] and np.isfinite(scores).all()
        return scores if whole else None


def collect(paths: Iterable[Path]) -> list[Run]:
    """The runs in ``paths``: run directories, or folders that hold some at any depth.

    Raises:
        ConfigError: one of them is not there, or has no runs.
    """
    found: dict[Path, Run] = {}
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"{path}: no such folder")
        some = {folder: _read(folder) for folder in _folders(path)}
        if not some:
            raise ConfigError(f"{path}: expected a run directory, or a folder with some in it")
        found |= some
    return list(found.values())


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
    """A large number as one would write it, 3e+11: Hydra writes all its digits."""
    try:
        return f"{float(number):g}" if abs(float(number)) >= 1e6 else number
    except ValueError:
        return number


def _within(key: str, other: str) -> bool:
    """Whether ``other`` is the key itself, or a node that holds it: `trainer.scheduler` holds `trainer.scheduler.gamma`."""
    return f"{key}.".startswith(f"{other}.")


def _written(value: Any) -> str:
    """A value as one types it on the command line."""
    return value if isinstance(value, str) else json.dumps(value)

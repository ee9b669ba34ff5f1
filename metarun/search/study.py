"""An Optuna study of runs: each trial is a run in its own run directory, found and continued there like any other.

Akiba et al. 2019 (Optuna); Bergstra et al. 2011 (TPE, the default sampler); Golovin et al. 2017, section 3.2.2 (the median rule).
"""

import json
import logging
import uuid
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState

from metarun.files import json_lines, replacing
from metarun.metric import KNOWN, recorded
from metarun.report.statistics import over_seeds
from metarun.search.space import Dimension
from metarun.sweep import Job

optuna.logging.set_verbosity(optuna.logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)

STARTUP = 5
"""Trials that are finished before any is pruned."""


class Study:
    """Trials kept in `study.db`, by any number of workers at once, killed and begun again at will.

    The value of a trial is its error on validation, which is minimised: the mean squared error, 1 - accuracy (`Metric.error`).

    Args:
        folder: of the study.
        space: what is searched over.
        seed: of the sampler. Only a study of one worker that is not stopped tries the same values again.
        sampler: tpe or random.
        pruning: median: stop a run of one stage whose validation is worse than the median of earlier runs at the same update; none.
    """

    def __init__(self, folder: Path, space: Sequence[Dimension], seed: int, sampler: str, pruning: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.space = folder, space
        self._lock = FileLock(folder / "study.lock")
        # Held as long as this process lives: how others see that a trial's worker is gone.
        (folder / "workers").mkdir(exist_ok=True)
        self._name = uuid.uuid4().hex[:12]
        self._alive = self._lock_of(self._name)
        self._alive.acquire()
        with self._lock:
            storage = f"sqlite:///{(folder / 'study.db').resolve()}"
            self._study = optuna.create_study(study_name="metarun", storage=storage, direction="minimize", load_if_exists=True)
            # Going on, or beside another worker, it shall not draw once more what has been drawn.
            seed += 1000 * len(list((folder / "workers").iterdir())) + len(self._study.get_trials(deepcopy=False))
        startup = min(10, 5 * len(space))
        tpe = optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
        self._study.sampler = tpe if sampler == "tpe" else optuna.samplers.RandomSampler(seed=seed)
        self._study.pruner = optuna.pruners.MedianPruner(STARTUP) if pruning == "median" else optuna.pruners.NopPruner()

    def close(self) -> None:
        """Let go of what this worker holds."""
        self._alive.release()
        self._alive_path(self._name).unlink(missing_ok=True)

    # Trials -----------------------------------------------------------------------------------------------------------------

    def trials(self) -> list[FrozenTrial]:
        """All that have come to an end: finished, pruned, or failed without being taken up again."""
        found = self._study.get_trials(deepcopy=False)
        again = {trial.user_attrs.get("again") for trial in found}
        ended = (TrialState.COMPLETE, TrialState.PRUNED)
        return [t for t in found if t.state in ended or (t.state == TrialState.FAIL and t.number not in again)]

    def empty(self) -> bool:
        """Whether nothing has been tried or proposed yet."""
        return not self._study.get_trials(deepcopy=False)

    def propose(self, values: Sequence[Mapping[str, Any]]) -> None:
        """Try these first, in this order."""
        for point in values:
            self._study.enqueue_trial(dict(point))

    def ask(self, most: int, of: int) -> list[tuple[optuna.Trial, list[str]]]:
        """Up to ``most`` trials with their overrides, until ``of`` are under way or ended; those of lost workers come first."""
        with self._lock:
            self._take_up_lost()
            running = sum(trial.state == TrialState.RUNNING for trial in self._study.get_trials(deepcopy=False))
            left = of - len(self.trials()) - running
            asked = []
            for _ in range(max(0, min(most, left))):
                trial = self._study.ask()
                trial.set_user_attr("worker", self._name)
                asked.append((trial, [f"{dimension.key}={dimension.ask(trial)}" for dimension in self.space]))
            return asked

    def follow(self, trial: optuna.Trial, job: Job) -> None:
        """Report what a running job's validation curve has come to, and ask it to stop where the median rule says so."""
        known = self._study.get_trials(deepcopy=False)[trial.number].intermediate_values
        for step, error in curve(job.folder.metrics_path).items():
            if step not in known:
                trial.report(error, step)
                if trial.should_prune() and job.status == "running":
                    job.folder.stop.touch()

    def tell(self, trial: optuna.Trial, job: Job) -> float | None:
        """What a job came to → its error, None where it has none. One that was interrupted stays open, to be taken up again."""
        status = job.status
        if status in ("waiting", "running", "interrupted"):
            return None
        trial.set_user_attr("run", str(job.folder.path))
        trial.set_user_attr("status", status)
        value = error_of(job.folder.results() or {}) if status == "finished" else None
        if value is not None:
            self._study.tell(trial, value)
        else:  # one that diverged is a bad value, one that failed tells nothing of its values
            self._study.tell(trial, state=TrialState.FAIL if status == "failed" else TrialState.PRUNED)
        return value

    def best(self) -> FrozenTrial | None:
        """The finished trial of least error."""
        done = [t for t in self.trials() if t.state == TrialState.COMPLETE and t.value is not None]
        return min(done, key=lambda t: t.value or 0.0, default=None)

    def best_overrides(self) -> list[str]:
        """Those of the best trial."""
        best = self.best()
        return (
            [f"{dimension.key}={dimension.ask(optuna.trial.FixedTrial(best.params))}" for dimension in self.space] if best else []
        )

    def line(self, trial: optuna.Trial, overrides: Sequence[str], job: Job, value: float | None, of: int) -> str:
        """One trial and what came of it."""
        best = self.best()
        least = f"; best {best.value:.4g} (trial {best.number})" if best else ""
        if value is not None:
            came = f"error {value:.4g} on validation{' (known)' if job.skipped else ''}"
        else:
            came = "not finite on validation" if job.status == "finished" else job.said()
        return f"trial {trial.number} ({len(self.trials())} of {of}): {' '.join(overrides)}: {came}{least}"

    def report(self, tests: Sequence[Job]) -> str:
        """Write search.json and the plots: what was chosen on validation, and its test over seeds → a line of it."""
        best = self.best()
        if best is None:
            raise ValueError("no trial has come to its end")
        found = [job.folder.results() or {} for job in tests]
        metric = recorded(found[0]).name
        values = {results["seed"]: results["test"][metric]["mean"] for results in found}
        interval = over_seeds(list(values.values()))
        report = {
            "chosen": self.best_overrides(),
            "trial": best.number,
            "trials": len(self.trials()),
            "pruned": sum(trial.user_attrs.get("status") == "pruned" for trial in self.trials()),
            "validation_error": best.value,
            "test": {metric: {"mean": interval[0], "ci95": interval[1], "by_seed": values}},
        }
        with replacing(self.folder / "search.json") as file:
            file.write(json.dumps(report, indent=2).encode() + b"\n")
        self.draw()
        spread = f" ± {interval[1]:.4g}" if interval[1] is not None else ""
        return (
            f"chosen on validation in {len(self.trials())} trials: {' '.join(self.best_overrides())}\n"
            f"test {metric} over {len(values)} seeds, mean ± 95 % interval: {interval[0]:.4g}{spread}\n{self.folder}"
        )

    def _take_up_lost(self) -> None:
        """Trials whose worker is gone are tried again with the same values: in their run directory, from their checkpoint."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            worker = trial.user_attrs.get("worker")
            if worker == self._name:
                continue
            if worker is not None:
                lock = self._lock_of(worker)
                try:
                    lock.acquire(timeout=0)
                except Timeout:
                    continue
                lock.release()
            self._study.tell(trial.number, state=TrialState.FAIL)
            self._study.enqueue_trial(trial.params, user_attrs={"again": trial.number})

    def _alive_path(self, name: str) -> Path:
        return self.folder / "workers" / f"{name}.lock"

    def _lock_of(self, name: str) -> FileLock:
        return FileLock(self._alive_path(name))

    # Pictures ---------------------------------------------------------------------------------------------------------------

    def draw(self) -> list[Path]:
        """Optuna's own plots as PNG, those that the trials so far are enough for."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
        from optuna.visualization import matplotlib as plots

        kinds: dict[str, Any] = {
            "history": plots.plot_optimization_history,
            "slice": plots.plot_slice,
            "curves": plots.plot_intermediate_values,
            "contour": plots.plot_contour,
            "timeline": plots.plot_timeline,
        }
        if len(self.space) < 2:
            del kinds["contour"]
        if not any(trial.intermediate_values for trial in self.trials()):
            del kinds["curves"]
        written = []
        for name, plot in kinds.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that a plot is experimental, or that a value is missing
                plot(self._study)
            path = self.folder / f"{name}.png"
            with replacing(path) as file:
                pyplot.gcf().savefig(file, format="png", dpi=120, bbox_inches="tight")
            pyplot.close("all")
            written.append(path)
        return written


def error_of(results: Mapping[str, Any]) -> float | None:
    """The error on validation, from a results.json; None: it is not finite, or there is none."""
    if not results.get("validation"):
        return None
    metric = recorded(results)
    mean = results["validation"][metric.name]["mean"]
    return None if mean is None else metric.error(mean)


def curve(metrics: Path) -> dict[int, float]:
    """The validation error by outer update, from a run's metrics.jsonl as far as it is written.

    A run of several stages has none: it is judged on all stages after the last, and validated on the stage in training alone. Nor
    has one with a metric of its own, whose lines do not tell whether higher is better: such a run is never pruned.
    """
    found = {}
    for values in json_lines(metrics):
        if any(key.startswith("stage/") for key in values):  # a row of R, the first of which is written before any update
            return {}
        for metric in KNOWN.values():
            value = values.get(f"val/{metric.name}")
            if value is not None:
                found[int(values["step"])] = metric.error(value)
    return found

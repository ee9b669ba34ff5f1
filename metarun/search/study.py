"""An Optuna study of runs: each trial is a run in its own run directory, which is resumed or skipped like any other run.

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
"""Number of trials to finish before any is pruned."""


class Study:
    """Trials stored in `study.db`, shared by any number of workers, which may be killed and restarted at any time.

    The value of a trial is its validation error, which is minimised: mean squared error, or 1 - accuracy (`Metric.error`).

    Args:
        folder: of the study.
        space: the search space.
        seed: of the sampler. The trials are reproducible only with a single worker that is not interrupted.
        sampler: tpe or random.
        pruning: median: stop a run of one stage if its validation is worse than the median of earlier runs at that update; or none.
    """

    def __init__(self, folder: Path, space: Sequence[Dimension], seed: int, sampler: str, pruning: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.space = folder, space
        self._lock = FileLock(folder / "study.lock")
        # Held as long as this process lives, so that others can see when a trial's worker is gone. Optuna's own heartbeat works
        # only within `optimize()`, not with ask and tell.
        (folder / "workers").mkdir(exist_ok=True)
        self._name = uuid.uuid4().hex[:12]
        self._alive = self._lock_of(self._name)
        self._alive.acquire()
        with self._lock:
            storage = f"sqlite:///{(folder / 'study.db').resolve()}"
            self._study = optuna.create_study(study_name="metarun", storage=storage, direction="minimize", load_if_exists=True)
            # A resumed study or a second worker must not repeat earlier draws.
            seed += 1000 * len(list((folder / "workers").iterdir())) + len(self._study.get_trials(deepcopy=False))
        startup = min(10, 5 * len(space))
        tpe = optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)
        self._study.sampler = tpe if sampler == "tpe" else optuna.samplers.RandomSampler(seed=seed)
        self._study.pruner = optuna.pruners.MedianPruner(STARTUP) if pruning == "median" else optuna.pruners.NopPruner()

    def close(self) -> None:
        """Release this worker's lock."""
        self._alive.release()
        self._alive_path(self._name).unlink(missing_ok=True)

    # Trials -----------------------------------------------------------------------------------------------------------------

    def trials(self) -> list[FrozenTrial]:
        """All trials that have ended: finished, pruned, or failed and not retried."""
        trials = self._study.get_trials(deepcopy=False)
        retried = {trial.user_attrs.get("again") for trial in trials}
        ended = (TrialState.COMPLETE, TrialState.PRUNED)
        return [t for t in trials if t.state in ended or (t.state == TrialState.FAIL and t.number not in retried)]

    def empty(self) -> bool:
        """Whether no trial has been run or proposed yet."""
        return not self._study.get_trials(deepcopy=False)

    def propose(self, values: Sequence[Mapping[str, Any]]) -> None:
        """Queue these configurations as the next trials, in this order."""
        for point in values:
            self._study.enqueue_trial(dict(point))

    def ask(self, most: int, of: int) -> list[tuple[optuna.Trial, list[str]]]:
        """Up to ``most`` new trials with their overrides, up to ``of`` in total; trials of lost workers come first."""
        with self._lock:
            self._retry_lost()
            running = sum(trial.state == TrialState.RUNNING for trial in self._study.get_trials(deepcopy=False))
            left = of - len(self.trials()) - running
            asked = []
            for _ in range(max(0, min(most, left))):
                trial = self._study.ask()
                trial.set_user_attr("worker", self._name)
                asked.append((trial, [f"{dimension.key}={dimension.ask(trial)}" for dimension in self.space]))
            return asked

    def follow(self, trial: optuna.Trial, job: Job) -> None:
        """Report a running job's validation curve so far, and ask the job to stop if the median rule prunes it."""
        reported = self._study.get_trials(deepcopy=False)[trial.number].intermediate_values
        for step, error in curve(job.folder.metrics_path).items():
            if step not in reported:
                trial.report(error, step)
                if trial.should_prune() and job.status == "running":
                    job.folder.stop.touch()

    def tell(self, trial: optuna.Trial, job: Job) -> float | None:
        """Report the outcome of a job → its error, or None. The trial of an interrupted job stays open and can be resumed."""
        status = job.status
        if status in ("waiting", "running", "interrupted"):
            return None
        trial.set_user_attr("run", str(job.folder.path))
        trial.set_user_attr("status", status)
        value = error_of(job.folder.results() or {}) if status == "finished" else None
        if value is not None:
            self._study.tell(trial, value)
        else:  # a diverged run shows bad values; a failed run says nothing about its values
            self._study.tell(trial, state=TrialState.FAIL if status == "failed" else TrialState.PRUNED)
        return value

    def best(self) -> FrozenTrial | None:
        """The finished trial with the smallest error."""
        done = [t for t in self.trials() if t.state == TrialState.COMPLETE and t.value is not None]
        return min(done, key=lambda t: t.value or 0.0, default=None)

    def best_overrides(self) -> list[str]:
        """The overrides of the best trial."""
        best = self.best()
        return (
            [f"{dimension.key}={dimension.ask(optuna.trial.FixedTrial(best.params))}" for dimension in self.space] if best else []
        )

    def line(self, trial: optuna.Trial, overrides: Sequence[str], job: Job, value: float | None, of: int) -> str:
        """A line for the log: a trial and its outcome."""
        best = self.best()
        so_far = f"; best {best.value:.4g} (trial {best.number})" if best else ""
        if value is not None:
            outcome = f"error {value:.4g} on validation{' (known)' if job.skipped else ''}"
        else:
            outcome = "not finite on validation" if job.status == "finished" else job.outcome()
        return f"trial {trial.number} ({len(self.trials())} of {of}): {' '.join(overrides)}: {outcome}{so_far}"

    def report(self, tests: Sequence[Job]) -> str:
        """Write search.json and the plots: the values chosen on validation and their test over seeds → a summary."""
        best = self.best()
        if best is None:
            raise ValueError("expected at least one finished trial, found none")
        all_results = [job.folder.results() or {} for job in tests]
        metric = recorded(all_results[0]).name
        values = {results["seed"]: results["test"][metric]["mean"] for results in all_results}
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

    def _retry_lost(self) -> None:
        """Queue the trials of lost workers again with the same values; they resume in their run directories."""
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
        """Write Optuna's plots as PNG files, as far as the trials allow."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot
        from optuna.visualization import matplotlib as plots

        plotters: dict[str, Any] = {
            "history": plots.plot_optimization_history,
            "slice": plots.plot_slice,
            "curves": plots.plot_intermediate_values,
            "contour": plots.plot_contour,
            "timeline": plots.plot_timeline,
        }
        if len(self.space) < 2:
            del plotters["contour"]
        if not any(trial.intermediate_values for trial in self.trials()):
            del plotters["curves"]
        written = []
        for name, plot in plotters.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about experimental plots and missing values
                plot(self._study)
            path = self.folder / f"{name}.png"
            with replacing(path) as file:
                pyplot.gcf().savefig(file, format="png", dpi=120, bbox_inches="tight")
            pyplot.close("all")
            written.append(path)
        return written


def error_of(results: Mapping[str, Any]) -> float | None:
    """The validation error, from a results.json; None: not finite, or no validation."""
    if not results.get("validation"):
        return None
    metric = recorded(results)
    mean = results["validation"][metric.name]["mean"]
    return None if mean is None else metric.error(mean)


def curve(metrics: Path) -> dict[int, float]:
    """The validation error by outer update, from a run's metrics.jsonl so far.

    Empty for a run of several stages, which is judged on all stages after the last but validated only on the stage in training, and
    for a custom metric, since its lines do not say whether higher is better; such runs are never pruned.
    """
    errors = {}
    for values in json_lines(metrics):
        if any(key.startswith("stage/") for key in values):  # a row of R; the first is written before any update
            return {}
        for metric in KNOWN.values():
            value = values.get(f"val/{metric.name}")
            if value is not None:
                errors[int(values["step"])] = metric.error(value)
    return errors

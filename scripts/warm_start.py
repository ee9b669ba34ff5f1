"""Compare the number of trials that a search needs with and without warm start, on errors measured over a grid.

    python scripts/warm_start.py run exp              the grid on ten distributions: 500 short runs, some minutes per distribution
    python scripts/warm_start.py compare exp          each distribution held out in turn; 20 seeds of the sampler

A trial gets the error of the nearest grid point; the search ends when it is within 5 % of the grid's smallest error.
"""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from omegaconf import OmegaConf

from metarun.search.experience import experience, proposals
from metarun.search.space import Dimension, places
from metarun.search.study import error_of
from metarun.tracking import RunFolder

DISTRIBUTIONS = (
    "data=sine",
    "data=sine data.amplitude=[0.1,1.0]",
    "data=sine data.amplitude=[2.0,5.0]",
    "data=sine data.frequency=[0.4,0.7]",
    "data=sine data.x=[-2.0,2.0]",
    "data=linear",
    "data=linear data.slope=[-6.0,6.0]",
    "data=linear data.noise=0.1",
    "data=linear data.x=[-5.0,5.0]",
    "data=linear data.intercept=[-5.0,5.0] data.noise=1.0",
)
GRID = (
    "algo.inner_lr=0.001,0.002,0.004,0.008,0.016,0.032,0.064,0.128,0.256,0.5",
    "trainer.optimizer.lr=0.0003,0.001,0.003,0.01,0.03",
)
SHORT = ("trainer.iterations=150", "trainer.validate_every=null", "trainer.val_tasks=200", "trainer.test_tasks=10")
PLAIN = ("trainer.threads=1", "trainer.figures=false", "trainer.tensorboard=false")
SPACE = (Dimension("algo.inner_lr", 0.001, 0.5, log=True), Dimension("trainer.optimizer.lr", 0.0003, 0.03, log=True))
LIKE = {"algo": "maml", "cl": "none"}
MOST, SEEDS, NEAR = 60, 20, 1.05

Numbers = NDArray[np.float64]


def run(folder: Path) -> None:
    for number, keys in enumerate(DISTRIBUTIONS):
        command = [sys.executable, "-m", "metarun", "-m", *keys.split(), *GRID, *SHORT, *PLAIN]
        subprocess.run([*command, f"hydra.sweep.dir={folder / str(number)}"], check=True)


def measured(folder: Path) -> tuple[Numbers, Numbers, dict[str, float]]:
    """Points (n, 2), their errors (n,), infinite if the run diverged, and the task's features."""
    points, errors = [], []
    features: dict[str, float] = {}
    for path in sorted(folder.rglob("results.json")):
        results = RunFolder(path.parent).results() or {}
        config = RunFolder(path.parent).configuration()
        error = error_of(results)
        points.append(places(SPACE, {dimension.key: OmegaConf.select(config, dimension.key) for dimension in SPACE}))
        errors.append(np.inf if error is None else error)
        features = results.get("task_features") or features
    return np.array(points), np.array(errors), features


def trials(points: Numbers, errors: Numbers, first: Sequence[Mapping[str, Any]], seed: int) -> int:
    """Number of trials until one is close to the best."""
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=10))
    for values in first:
        study.enqueue_trial(dict(values))
    for count in range(1, MOST + 1):
        trial = study.ask()
        at = [dimension.to_unit(trial.suggest_float(dimension.key, dimension.low, dimension.high, log=True)) for dimension in SPACE]
        error = errors[((points - np.array(at)) ** 2).sum(1).argmin()]
        if error <= NEAR * errors.min():
            return count
        if np.isfinite(error):
            study.tell(trial, float(error))
        else:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    return MOST + 1


def compare(folder: Path) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folders = sorted((path for path in folder.iterdir() if path.is_dir()), key=lambda path: int(path.name))
    cold, warm = [], []
    for held_out in folders:
        points, errors, features = measured(held_out)
        tasks = [task for other in folders if other != held_out for task in experience(other, SPACE, LIKE, list(features))]
        vector = np.array(list(features.values()))
        cold.append([trials(points, errors, [], seed) for seed in range(SEEDS)])
        warm.append([trials(points, errors, proposals(tasks, vector, SPACE, 8, seed), seed) for seed in range(SEEDS)])
        print(f"{DISTRIBUTIONS[int(held_out.name)]:<55} cold {spread(cold[-1])}  warm {spread(warm[-1])}", flush=True)
    print(f"{'all':<55} cold {spread(np.ravel(cold))}  warm {spread(np.ravel(warm))}")


def spread(counts: Any) -> str:
    """Median, and the quartiles."""
    low, middle, high = np.percentile(counts, [25, 50, 75])
    return f"{middle:g} ({low:g} to {high:g})"


if __name__ == "__main__":
    {"run": run, "compare": compare}[sys.argv[1]](Path(sys.argv[2]))

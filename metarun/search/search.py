"""Runs a search: successive trials, with values chosen from earlier outcomes, then a test of the best values over new seeds."""

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from metarun.choices import methods
from metarun.config import ConfigError
from metarun.search.options import Options
from metarun.search.space import Dimension
from metarun.sweep import Job, SweepFailed, check, summary

if TYPE_CHECKING:
    from metarun.search.study import Study


class Runner(Protocol):
    """The part of a sweep that a search uses: compose configurations, create jobs and run them (`metarun.sweeper`)."""

    config: Any

    def compose(self, overrides: Sequence[str]) -> DictConfig: ...
    def jobs(self, overrides: Sequence[Sequence[str]]) -> list[Job]: ...
    def launch(
        self, jobs: Sequence[Job], first: int = 0, on_look: Callable[[], object] = lambda: None, quiet: bool = False
    ) -> None: ...


def search(runner: Runner, options: Options, overrides: Sequence[Override]) -> None:
    """Search over the ``overrides`` that are intervals, ranges or lists; the last override of a key counts.

    Raises:
        ConfigError: Optuna is not installed, or no override is to be searched over.
        SweepFailed: no trial finished, or a test failed.
    """
    if importlib.util.find_spec("optuna") is None or importlib.util.find_spec("sqlalchemy") is None:
        raise ConfigError("search: needs Optuna; pip install 'metarun[search]'")
    from metarun.search.study import Study

    space, fixed = divide(overrides)
    name = options.name or name_of(runner.compose(fixed), space)
    folder = Path(runner.config.hydra.sweep.dir) / "search" / name
    study = Study(folder, space, runner.config.seed, options.sampler, options.pruning)
    try:
        if options.warm_start and study.empty():
            study.propose(warm_start(runner.compose(fixed), options, space))
        run_trials(runner, study, options, fixed)
    finally:
        study.close()
    chosen = [override for override in fixed if not override.startswith("seed=")] + study.best_overrides()
    tests = runner.jobs([[*chosen, f"seed={seed}"] for seed in options.test_seeds])
    try:
        runner.launch(tests, first=len(study.trials()))
    finally:
        print(f"\n{summary(tests)}", flush=True)
    check(tests)
    print(f"\n{study.report(tests)}", flush=True)


def divide(overrides: Sequence[Override]) -> tuple[list[Dimension], list[str]]:
    """The search space, and the overrides common to all trials."""
    latest = {override.get_key_element(): override for override in overrides}.values()
    space = [Dimension.of(override) for override in latest if override.is_sweep_override()]
    if not space:
        raise ConfigError("search: nothing to search over; add for example 'algo.inner_lr=tag(log,interval(0.001,1))'")
    fixed = [f"{each.get_key_element()}={each.get_value_element_as_str()}" for each in latest if not each.is_sweep_override()]
    return space, fixed


def name_of(config: DictConfig, space: Sequence[Dimension]) -> str:
    """Name of the study, `maml-sine-1f0c9a2b-seed0-77aa`: run name under the fixed overrides, and a digest of the space."""
    digest = hashlib.blake2b(repr(space).encode(), digest_size=2).hexdigest()
    return f"{str(config.hydra.sweep.subdir).replace('/', '-')}-{digest}"


def warm_start(config: DictConfig, options: Options, space: Sequence[Dimension]) -> list[dict[str, Any]]:
    """Configurations to try first, from earlier runs on tasks similar to those of ``config``."""
    from metarun.parts import features_of
    from metarun.search.experience import experience, proposals

    choices = config.hydra.runtime.choices
    features = features_of(config)
    like = {"algo": choices.algo, "cl": methods(choices)}
    tasks = experience(Path(options.warm_start or "."), space, like, list(features))
    return proposals(tasks, np.array(list(features.values())), space, options.warm_trials, config.seed)


def run_trials(runner: Runner, study: "Study", options: Options, fixed: Sequence[str]) -> None:
    """Run trials until their number is reached, including pruned ones."""
    while asked := study.ask(options.at_once, options.trials):
        jobs = runner.jobs([[*fixed, *overrides] for _, overrides in asked])
        pairs = [(trial, job) for (trial, _), job in zip(asked, jobs, strict=True)]

        def follow(pairs: Sequence[Any] = pairs) -> None:
            for trial, job in pairs:
                study.follow(trial, job)

        try:
            runner.launch(jobs, first=asked[0][0].number, on_look=follow, quiet=True)
        finally:
            for (trial, overrides), job in zip(asked, jobs, strict=True):
                print(study.line(trial, overrides, job, study.tell(trial, job), options.trials), file=sys.stderr, flush=True)
    if study.best() is None:
        raise SweepFailed(f"none of {len(study.trials())} trials finished; see their logs ({study.folder})")

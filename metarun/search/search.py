"""A search: runs tried one after another, their values chosen by what came of those before; then the best, over fresh seeds."""

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra.core.override_parser.types import Override

from metarun.build import build
from metarun.config import ConfigError
from metarun.search.options import Options
from metarun.search.space import Dimension
from metarun.sweep import SweepFailed, check, summary

if TYPE_CHECKING:
    from hydra_plugins.metarun_sweeper import MetarunSweeper
    from metarun.search.study import Study


def search(sweeper: "MetarunSweeper", said: list[Override]) -> None:
    """Search as `search` in the sweeper's configuration says, over what ``said`` leaves open.

    Raises:
        ConfigError: a mistake in the configuration.
        SweepFailed: no trial came to its end, or a test failed.
    """
    if importlib.util.find_spec("optuna") is None or importlib.util.find_spec("sqlalchemy") is None:
        raise ConfigError("search: needs metarun's extra search; pip install 'metarun[search]'")
    from metarun.search.study import Study

    options: Options = build(sweeper.config.search, key="search", kind=Options)
    space, fixed = divide(sweeper, options, said)
    name = options.name or name_of(sweeper, space, fixed)
    study = Study(
        Path(sweeper.config.hydra.sweep.dir) / "search" / name, space, sweeper.config.seed, options.sampler, options.pruning
    )
    try:
        if options.warm_start and study.empty():
            study.propose(warm_start(sweeper, options, space, fixed))
        run_trials(sweeper, study, options, fixed)
    finally:
        study.close()
    chosen = [override for override in fixed if not override.startswith("seed=")] + study.best_overrides()
    tests = sweeper.jobs([[*chosen, f"seed={seed}"] for seed in options.test_seeds])
    try:
        sweeper.launch(tests, first=len(study.trials()))
    finally:
        print(f"\n{summary(tests)}", flush=True)
    check(tests)
    print(f"\n{study.report(tests)}", flush=True)


def divide(sweeper: "MetarunSweeper", options: Options, said: list[Override]) -> tuple[list[Dimension], list[str]]:
    """What is searched over, and the overrides that all trials have."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create(config_loader=sweeper.hydra_context.config_loader)
    own = parser.parse_overrides([f"{key}={value}" for key, value in options.params.items()])
    latest = {override.get_key_element(): override for override in [*own, *said]}.values()
    space = [Dimension.of(override) for override in latest if override.is_sweep_override()]
    if not space:
        raise ConfigError("search: nothing to search over; say for example 'algo.inner_lr=tag(log,interval(0.001,1))'")
    fixed = sweeper.split_arguments([override for override in latest if not override.is_sweep_override()], None)[0][0]
    return space, fixed


def name_of(sweeper: "MetarunSweeper", space: Sequence[Dimension], fixed: Sequence[str]) -> str:
    """`maml-sine-1f0c9a2b-seed0-77aa`: the run that is varied, and a digest of how."""
    digest = hashlib.blake2b(repr(space).encode(), digest_size=2).hexdigest()
    return f"{str(sweeper.compose(fixed).hydra.sweep.subdir).replace('/', '-')}-{digest}"


def warm_start(
    sweeper: "MetarunSweeper", options: Options, space: Sequence[Dimension], fixed: Sequence[str]
) -> list[dict[str, Any]]:
    """What to try first, from earlier runs."""
    from metarun.cli import methods
    from metarun.run import features_of
    from metarun.search.experience import experience, proposals

    config = sweeper.compose(fixed)
    choices = config.hydra.runtime.choices
    features = features_of(config)
    like = {"algo": choices.algo, "cl": methods(choices)}
    tasks = experience(Path(options.warm_start or "."), space, like, list(features))
    return proposals(tasks, np.array(list(features.values())), space, options.warm_trials, config.seed)


def run_trials(sweeper: "MetarunSweeper", study: "Study", options: Options, fixed: Sequence[str]) -> None:
    """Run trials until there are enough of them, pruned ones included."""
    while asked := study.ask(options.at_once, options.trials):
        jobs = sweeper.jobs([[*fixed, *overrides] for _, overrides in asked])
        pairs = [(trial, job) for (trial, _), job in zip(asked, jobs, strict=True)]

        def follow(pairs: Sequence[Any] = pairs) -> None:
            for trial, job in pairs:
                study.follow(trial, job)

        try:
            sweeper.launch(jobs, first=asked[0][0].number, on_look=follow, quiet=True)
        finally:
            for (trial, overrides), job in zip(asked, jobs, strict=True):
                print(study.line(trial, overrides, job, study.tell(trial, job), options.trials), file=sys.stderr, flush=True)
    if study.best() is None:
        raise SweepFailed(f"none of {len(study.trials())} trials came to its end; their logs say why ({study.folder})")

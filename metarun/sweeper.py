"""metarun's sweeper: a Hydra plugin that runs every combination of the values listed, or a search.

Hydra imports it for every command, so it imports what sweeps need only when one is run.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.core.utils import configure_log, run_job, setup_globals
from hydra.plugins import sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from metarun.config import CONFIGS, ConfigError
from metarun.declared import modules_in
from metarun.folder import check_folder
from metarun.hydra_compat import is_basic
from metarun.trust import folder_of

if TYPE_CHECKING:
    from metarun.sweep import Job


class Sweeper(sweeper.Sweeper):
    """Every combination of the values listed is a job for the chosen launcher; with `+search=`, a search chooses the values.

    Args:
        params: keys and the values to sweep over, as a published table lists them, or a list of such grids, all of which are run.
            The command line overrides every grid.
    """

    hydra_context: Any
    config: Any
    launcher: Any

    def __init__(self, params: Mapping[str, str] | Sequence[Mapping[str, str]] | None = None) -> None:
        self.grids = [params or {}] if params is None or isinstance(params, Mapping) else params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config, self.task_function = hydra_context, config, task_function
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the sweep that ``arguments`` describe; classes of the user's own are admitted as in a single run."""
        from metarun.files import replacing
        from metarun.ranks import launched

        with modules_in(folder_of(self.config.hydra)):
            if launched() is not None:
                raise ConfigError("torchrun: divides one run; sweep without it, or start each run under it")
            setup_globals()
            with replacing(Path(self.config.hydra.sweep.dir) / "multirun.yaml") as file:
                file.write(OmegaConf.to_yaml(self.config).encode())
            if "search" in self.config:
                self.run_search(arguments)
            else:
                self.run_grids(arguments)

    def run_search(self, arguments: list[str]) -> None:
        """Search over the keys that the configuration's `search.params`, the first grid and ``arguments`` leave open."""
        from metarun.build import build
        from metarun.search.options import Options
        from metarun.search.search import search

        options: Options = build(self.config.search, key="search", kind=Options)
        search(self, options, self.parse([*as_overrides(options.params), *as_overrides(self.grids[0]), *arguments]))

    def run_grids(self, arguments: list[str]) -> None:
        """Run every job of every grid and print the status of each."""
        from metarun.sweep import check, summary

        listed: dict[frozenset[str], list[str]] = {}  # a job that occurs in two grids is run once
        for grid in self.grids:
            for overrides in combinations(self.parse([*as_overrides(grid), *arguments])):
                listed.setdefault(frozenset(overrides), overrides)
        jobs = self.jobs(list(listed.values()))
        try:
            self.launch(jobs)
        finally:
            print(f"\n{summary(jobs)}", flush=True)
        self.tabulate(jobs)
        check(jobs)

    def tabulate(self, jobs: Sequence["Job"]) -> None:
        """For a published table, print it from all its runs in the sweep's folder and write it to `tables/` there."""
        name = self.config.hydra.runtime.choices.get("table")
        if name is None or not (CONFIGS / "table" / f"{name}.yaml").is_file() or not any(job.folder.path.is_dir() for job in jobs):
            return
        from metarun.report import render, table
        from metarun.report.runs import collect

        folder = Path(self.config.hydra.sweep.dir)
        results = table.make(name, collect([folder]))
        print(f"\n{render.markdown(results)}\n", *render.save(results, folder / "tables"), sep="\n", flush=True)

    def parse(self, overrides: list[str]) -> list[Override]:
        """Parse `KEY=VALUE`; the values may be sweeps, with globs over the choices of a group."""
        return OverridesParser.create(config_loader=self.hydra_context.config_loader).parse_overrides(overrides)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Compose the configuration of one job.

        Raises:
            ConfigError: an override would change Hydra's own part.
        """
        for override in OverridesParser.create().parse_overrides(list(overrides)):
            if override.is_hydra_override():
                raise ConfigError(f"{override.input_line}: Hydra's own keys cannot be swept over")
        config: DictConfig = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        return config

    def jobs(self, overrides: Sequence[Sequence[str]]) -> list["Job"]:
        """One job for each list of overrides. All are composed first, so that a mistake is refused before any job runs."""
        from metarun.sweep import Job
        from metarun.tracking import source_digest

        jobs = []
        for own in overrides:
            config = self.compose(own)
            path = Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir
            if not config.restart:
                check_folder(path, config)
            jobs.append(Job(own, path, source_digest(config), config, anew=config.restart))
        return jobs

    def launch(
        self, jobs: Sequence["Job"], first: int = 0, on_look: Callable[[], object] = lambda: None, quiet: bool = False
    ) -> None:
        """Run the unfinished ones of ``jobs``, numbered from ``first``, and watch them (`metarun.sweep.Watch`)."""
        from metarun.signals import passed_on
        from metarun.sweep import Watch

        missing = [job for job in jobs if not job.skipped]
        with Watch(jobs, on_look, quiet=quiet), passed_on():
            if is_basic(self.launcher):
                self.launch_here(missing, first)
            elif missing:
                self.launcher.launch([job.overrides for job in missing], initial_job_idx=first)

    def launch_here(self, jobs: Sequence["Job"], first: int) -> None:
        """Run one after another in this process. Hydra's own launcher would compose each of them a second time."""
        for number, job in enumerate(jobs, first):
            with open_dict(job.config):
                job.config.hydra.job.id = job.config.hydra.job.num = number
            run_job(
                hydra_context=self.hydra_context,
                task_function=self.task_function,
                config=job.config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
            configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)


def as_overrides(grid: Mapping[str, Any]) -> list[str]:
    """Keys and values of a YAML file as on the command line."""
    return [f"{key}={'null' if value is None else value}" for key, value in grid.items()]


def combinations(overrides: Sequence[Override]) -> list[list[str]]:
    """Every combination of the values listed, as `KEY=VALUE`; the last override of a key counts.

    Raises:
        ConfigError: an override is an interval, which has no list of values.
    """
    values: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            values[key] = [override.get_value_element_as_str()]
        elif override.is_discrete_sweep():
            values[key] = list(override.sweep_string_iterator())
        else:
            raise ConfigError(f"{override.input_line}: only a search takes an interval; list values, or add +search=CHOICE")
    return [list(job) for job in itertools.product(*([f"{key}={value}" for value in of] for key, of in values.items()))]

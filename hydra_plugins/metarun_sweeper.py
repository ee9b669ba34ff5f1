"""metarun's sweeper. Hydra takes plugins from the package hydra_plugins alone, so it stands here and not in metarun."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import configure_log, run_job, setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict

from metarun.config import CONFIGS, ConfigError


class MetarunSweeper(BasicSweeper):
    """Every combination of the values listed, each a job, through the launcher chosen; or a search, with `+search=`.

    Args:
        params: keys and values to sweep over, beside those of the command line: a table's; or a list of such grids, whose jobs
            are all run. What the command line says holds in every grid.
    """

    hydra_context: Any
    config: Any
    launcher: Any

    def __init__(self, params: Mapping[str, str] | Sequence[Mapping[str, str]] | None = None) -> None:
        super().__init__(max_batch_size=None, params=None)
        self.grids = [params or {}] if params is None or isinstance(params, Mapping) else params

    def sweep(self, arguments: list[str]) -> None:
        from metarun.trust import folder_of, modules_in

        with modules_in(folder_of(self.config.hydra)):
            self.run_all(arguments)

    def run_all(self, arguments: list[str]) -> None:
        """The sweep, with the user's own classes admitted as in a run."""
        from metarun.config import ConfigError
        from metarun.files import replacing
        from metarun.ranks import launched
        from metarun.sweep import check, summary

        if launched() is not None:
            raise ConfigError("torchrun: shares out one run; sweep without it, or start each run under it")
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        grids = [parser.parse_overrides([*as_overrides(grid), *arguments]) for grid in self.grids]
        setup_globals()
        folder = Path(self.config.hydra.sweep.dir)
        with replacing(folder / "multirun.yaml") as file:
            file.write(OmegaConf.to_yaml(self.config).encode())
        if "search" in self.config:
            from metarun.search.search import search

            search(self, grids[0])
            return
        listed: dict[frozenset[str], list[str]] = {}  # each job once, though two grids have it
        for said in grids:
            for overrides in self.split_arguments(said, None)[0]:
                listed.setdefault(frozenset(overrides), overrides)
        jobs = self.jobs(list(listed.values()))
        try:
            self.launch(jobs)
        finally:
            print(f"\n{summary(jobs)}", flush=True)
        self.tabulate(jobs)
        check(jobs)

    def tabulate(self, jobs: Sequence[Any]) -> None:
        """Of a published table's sweep: print it, of all its runs in the sweep's folder, and write it to `tables/` there."""
        name = self.config.hydra.runtime.choices.get("table")
        if name is None or not (CONFIGS / "table" / f"{name}.yaml").is_file() or not any(job.folder.path.is_dir() for job in jobs):
            return
        from metarun.report import table
        from metarun.report.runs import collect

        folder = Path(self.config.hydra.sweep.dir)
        made = table.make(name, collect([folder]))
        print(f"\n{made.markdown()}\n", *made.save(folder / "tables"), sep="\n", flush=True)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """The configuration of one job, which leaves Hydra's part as it is."""
        for override in OverridesParser.create().parse_overrides(list(overrides)):
            if override.is_hydra_override():
                raise ConfigError(f"{override.input_line}: Hydra's own keys cannot be swept over")
        found: DictConfig = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        return found

    def jobs(self, overrides: Sequence[Sequence[str]]) -> list[Any]:
        """The jobs of these overrides; composing them refuses a mistake before any of them runs."""
        from metarun.sweep import Job
        from metarun.tracking import source_digest

        found = []
        for own in overrides:
            config = self.compose(own)
            path = Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir
            found.append(Job(own, path, source_digest(config), config, anew=config.restart))
        return found

    def launch(
        self, jobs: Sequence[Any], first: int = 0, on_look: Callable[[], object] = lambda: None, quiet: bool = False
    ) -> None:
        """Run those that are not finished yet, numbered from ``first``, watching them (`metarun.sweep.Watch`)."""
        from metarun.signals import passed_on
        from metarun.sweep import Watch

        missing = [job for job in jobs if not job.skipped]
        with Watch(jobs, on_look, quiet=quiet), passed_on():
            if type(self.launcher) is BasicLauncher:
                self.launch_here(missing, first)
            elif missing:
                self.launcher.launch([job.overrides for job in missing], initial_job_idx=first)

    def launch_here(self, jobs: Sequence[Any], first: int) -> None:
        """One after another in this process, as Hydra's own launcher does that would compose each of them once more."""
        for number, job in enumerate(jobs, first):
            with open_dict(job.config):
                job.config.hydra.job.id = job.config.hydra.job.num = number
            run_job(
                hydra_context=self.hydra_context,
                task_function=self.launcher.task_function,
                config=job.config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
            configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)


def as_overrides(grid: Mapping[str, Any]) -> list[str]:
    """Keys and values of a YAML file as on the command line."""
    return [f"{key}={'null' if value is None else value}" for key, value in grid.items()]

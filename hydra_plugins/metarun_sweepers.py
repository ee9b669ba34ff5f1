"""metarun's sweepers. Hydra takes plugins from the package hydra_plugins alone, so they stand here and not in metarun."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from omegaconf import OmegaConf


class Grid(BasicSweeper):
    """Every combination of the values listed, each a job, through the launcher chosen."""

    hydra_context: Any
    config: Any
    launcher: Any

    def sweep(self, arguments: list[str]) -> None:
        from metarun.sweep import check, summary

        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        said = parser.parse_overrides([*self._parse_config(), *arguments])
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        (overrides,) = self.split_arguments(said, None)
        jobs = self.jobs(overrides)
        try:
            self.launch(jobs)
        finally:
            print(f"\n{summary(jobs)}", flush=True)
        check(jobs)

    def jobs(self, overrides: Sequence[Sequence[str]]) -> list[Any]:
        """Compose each job's configuration, which refuses a mistake before any of them runs, for its run directory."""
        from metarun.sweep import Job
        from metarun.tracking import source_digest

        setup_globals()
        found = []
        for own in overrides:
            config = self.hydra_context.config_loader.load_sweep_config(self.config, list(own))
            path = Path(config.hydra.sweep.dir) / config.hydra.sweep.subdir
            found.append(Job(own, path, source_digest(config), anew=config.restart))
        return found

    def launch(self, jobs: Sequence[Any], first: int = 0) -> None:
        """Run what is not finished yet, telling how far it is."""
        from metarun.signals import passed_on
        from metarun.sweep import Watch

        missing = [job.overrides for job in jobs if not job.skipped]
        with Watch(jobs), passed_on():
            if missing:
                self.launcher.launch(missing, initial_job_idx=first)

"""Composing a configuration, running it, and reading what a run has left: one way for all tests.

`trained` runs a configuration without the command line, `Here` the command line in this process, `Process` in one of its own.
"""

import json
import logging
import os
import subprocess
import sys
from contextlib import chdir
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, open_dict, read_write

from metarun import cli
from metarun.choices import CHOICES, compose, methods
from metarun.run import run
from metarun.tracking import RunFolder

SMALL = (
    *("model.widths=[8,8]", "trainer.iterations=40", "trainer.validate_every=20", "trainer.val_tasks=10", "trainer.test_tasks=20"),
    *("trainer.log_every=10", "trainer.figures=false", "trainer.tensorboard=false", "trainer.device=cpu", "trainer.threads=1"),
)


@cache
def _composed(overrides: tuple[str, ...], hydra_part: bool) -> DictConfig:
    return compose(overrides, hydra_part=hydra_part)


def composed(*overrides: str, hydra_part: bool = False) -> DictConfig:
    """The package's configuration under ``overrides``; a copy, as Hydra takes a tenth of a second for it."""
    return deepcopy(_composed(overrides, hydra_part))


def trained(path: Path, *overrides: str) -> dict[str, Any]:
    """Run what ``overrides`` say, as the command line does → what results.json says."""
    config = composed(*overrides, hydra_part=True)
    chosen = config.hydra.runtime.choices
    with read_write(config), open_dict(config):
        del config["hydra"]
    return run(config, {group: chosen[group] for group in CHOICES} | {"cl": methods(chosen)}, path)


def run_in(path: Path, *overrides: str, algo: str = "maml", data: str = "sine", cl: str = "none") -> dict[str, Any]:
    """A small run, which a multilayer perceptron suits → what results.json says."""
    return trained(path, f"algo={algo}", f"data={data}", f"cl={cl}", *SMALL, *overrides)


def results(path: Path) -> dict[str, Any]:
    """Those in a run directory."""
    return json.loads((path / "results.json").read_text())


def weights(path: Path) -> dict[str, torch.Tensor]:
    """Those in the last checkpoint of a run."""
    return torch.load(RunFolder(path).last, weights_only=True)["algorithm"]


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """To the bit."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


class CommandLine:
    """The command `metarun` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        """Its output; any other exit status than ``status`` is a failure of the test."""
        found, out, err = self.end(*arguments)
        assert found == status, f"exit status {found}\n{out}\n{err}"
        return subprocess.CompletedProcess(arguments, found, out, err)

    def end(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, stdout and stderr."""
        raise NotImplementedError


class Process(CommandLine):
    """In a process of its own, for what only a process has: signals, an end, an interpreter that has imported nothing."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        # Tests run side by side: threads that wait shall not spin on a core that another test could use.
        self.environment = {**os.environ, "PYTHONWARNINGS": "error::DeprecationWarning:metarun", "OMP_WAIT_POLICY": "passive"}

    def start(self, *arguments: str, **keys: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "metarun", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=pipe, stderr=pipe, text=True, **keys)

    def end(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=240)
        return process.returncode, out, err


class Here(CommandLine):
    """In this process, without the seconds that a new interpreter takes; a traceback is a failure of the test."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        super().__init__(folder)
        self.capsys = capsys

    def end(self, *arguments: str) -> tuple[int, str, str]:
        root = logging.getLogger()
        before, path, level = list(root.handlers), list(sys.path), root.level
        self.capsys.readouterr()
        words = patch.object(sys, "argv", ["metarun", *arguments])
        once = patch.object(Hydra, "get_mode", return_value=None)  # which composes all a first time, to look for hydra.mode
        with words, once, patch.dict(os.environ), chdir(self.folder):
            try:
                cli.main()
            except SystemExit as end:
                status = int(end.code or 0)
            finally:
                for handler in set(root.handlers) - set(before):
                    handler.close()
                root.handlers, sys.path[:] = before, path
                root.setLevel(level)
                GlobalHydra.instance().clear()
                cli.failed.clear()
                for name, module in sys.modules.copy().items():  # a user's own, which another test has otherwise
                    if str(getattr(module, "__file__", "")).startswith(str(self.folder)):
                        del sys.modules[name]
        return status, *self.capsys.readouterr()

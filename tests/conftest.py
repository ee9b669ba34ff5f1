"""Fixtures: the real data, and runs of the real command line."""

import logging
import os
import signal
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from hydra._internal.hydra import Hydra
from hydra.core.global_hydra import GlobalHydra

from metarun import cli, signals


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors are fastest on one thread, and results do not depend on the machine."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def nothing_is_stopping():
    """A signal that stopped a run of one test stops none of the next one's."""
    signals.stopping.clear()


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with real data sets; tests that need one are skipped where there is none."""
    for root in os.environ.get("METARUN_DATA", "").split(os.pathsep):
        if (Path(root) / "omniglot" / "images_background.zip").is_file():
            return Path(root)
    pytest.skip("METARUN_DATA does not point at a folder with omniglot/images_background.zip")


@pytest.fixture(autouse=True, scope="session")
def no_listener():
    """A run tells who listened before of a signal, and mutmut's would end the process there, as if all tests had passed."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Command:
    """The command `metarun` in a folder of its own, as a user calls it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # Tests run side by side: threads that wait shall not spin on a core that another test could use.
        self.environment = {**os.environ, "PYTHONWARNINGS": "error::DeprecationWarning:metarun", "OMP_WAIT_POLICY": "passive"}

    def start(self, *arguments: str, **keys: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "metarun", *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=pipe, stderr=pipe, text=True, **keys)

    def __call__(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=240)
        assert process.returncode == status, f"exit status {process.returncode}\n{out}\n{err}"
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


class Here:
    """The command `metarun` in this process: the same words, without the seconds that a new interpreter takes."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys

    def __call__(self, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        found, out, err = self.end(*arguments)
        assert found == status, f"exit status {found}\n{out}\n{err}"
        return subprocess.CompletedProcess(arguments, found, out, err)

    def end(self, *arguments: str) -> tuple[int, str, str]:
        """Exit status, stdout and stderr; a traceback is a failure of the test."""
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


@pytest.fixture
def here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(tmp_path, capsys)


@pytest.fixture
def metarun(tmp_path: Path) -> Command:
    return Command(tmp_path)

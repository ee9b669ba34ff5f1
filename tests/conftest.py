"""Fixtures: the real data, and runs of the real command line."""

import os
import signal
from pathlib import Path

import pytest
import torch
from runs import Here, Process

from metarun import signals


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


@pytest.fixture
def here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Here:
    """The command line in this process."""
    return Here(tmp_path, capsys)


@pytest.fixture
def metarun(tmp_path: Path) -> Process:
    """The command line in a process of its own."""
    return Process(tmp_path)

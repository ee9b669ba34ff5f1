"""Long runs and long sweeps take no more memory and files than short ones.

METARUN_LONG=50000 makes as many updates, and a sweep of 50 jobs:

    METARUN_LONG=50000 pytest -n 0 -o timeout=1500 -m "slow or not slow" tests/test_long.py
"""

import gc
import json
import os
import statistics
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from runs import run_in

from metarun.trainer import feed
from metarun.trainer.meter import Meter

LONG = int(os.environ.get("METARUN_LONG", 0))
MB = 2**20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what a process holds is told by /proc")


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def files() -> set[str]:
    """What is open, but for what the test's own runner opens."""
    held = Path("/proc/self/fd")
    return {link for fd in held.iterdir() if "run" in (link := os.readlink(fd) if fd.exists() else "")}


def tensors() -> int:
    gc.collect()
    return sum(type(found) is torch.Tensor for found in gc.get_objects())


@pytest.fixture
def looks(monkeypatch):
    """(tensors, resident size) at each log of the loss."""
    seen = []

    def log_losses(meter, reading, own=Meter.log_losses):
        own(meter, reading)
        seen.append((tensors(), resident()))

    monkeypatch.setattr(feed, "MOST_UPDATES", 1)  # no tasks sampled ahead are among the tensors
    monkeypatch.setattr(Meter, "log_losses", log_losses)
    return seen


def assert_flat(looks):
    """A leak grows at most looks; the allocator takes a few MB once, at any of them."""
    held, sizes = zip(*looks[1:], strict=True)
    assert len(held) >= 5
    assert max(held) <= held[0], held
    growth = [later - earlier for earlier, later in pairwise(sizes)]
    assert statistics.median(growth) < MB / 4, [size / MB for size in sizes]


def test_memory_is_flat_over_updates(looks, tmp_path):
    updates = LONG or 600
    keys = ("trainer.tasks=2", "trainer.validate_every=null", f"trainer.iterations={updates}", f"trainer.log_every={updates // 6}")
    run_in(tmp_path / "run", *keys)
    assert_flat(looks)


def test_memory_is_flat_over_200_validations(looks, tmp_path):
    keys = ("trainer.tasks=1", "trainer.validate_every=1", "trainer.val_tasks=2", "trainer.keep_best=3")
    run_in(tmp_path / "run", *keys, "trainer.iterations=200", "trainer.log_every=34")
    assert_flat(looks)


def test_a_run_closes_what_it_opens(tmp_path):
    before = files()
    run_in(tmp_path / "run", "trainer.tensorboard=true", "trainer.iterations=2", "trainer.checkpoint_every=0")
    assert files() == before


SWEEP = """
import gc, json, os, sys, torch
from metarun import run as module
from metarun.cli import main

seen = []

def run(*given, own=module.run):
    found = own(*given)
    gc.collect()
    held = sum(type(o) is torch.Tensor for o in gc.get_objects())
    size = int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    seen.append((held, len(os.listdir("/proc/self/fd")), size))
    return found

module.run = run
try:
    main()
finally:
    print(json.dumps(seen), file=sys.stderr)
"""


@pytest.mark.slow
def test_a_sweep_in_one_process_does_not_grow(tmp_path):
    jobs = 50 if LONG else 6
    keys = ["trainer.iterations=3", "trainer.test_tasks=4", "trainer.val_tasks=4", "model.widths=[4]", "trainer.tensorboard=true"]
    command = [sys.executable, "-c", SWEEP, "-m", f"seed=range({jobs})", "trainer.figures=false", "trainer.threads=1", *keys]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, timeout=280)
    looks = json.loads(next(line for line in done.stderr.splitlines() if line.startswith("[[")))
    assert len(looks) == jobs
    held, open_files, sizes = zip(*looks[2:], strict=True)
    assert max(held) == held[0], held
    assert max(open_files) == open_files[0], open_files
    assert (sizes[-1] - sizes[0]) / len(sizes) < MB, [size / MB for size in sizes]

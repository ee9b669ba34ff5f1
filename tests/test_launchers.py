"""The same jobs through each launcher: really run here, and skipped where its extra is not installed."""

import importlib.util
import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

JOBS = ("seed=0,1", "algo.inner_lr=0.01,0.02")
SHORT = (
    "trainer.iterations=10",
    "trainer.test_tasks=20",
    "trainer.val_tasks=5",
    "trainer.figures=false",
    "trainer.tensorboard=false",
)
PACKAGES = {
    "parallel": ("joblib", "parallel", "hydra.launcher.n_jobs=2"),
    "slurm_local": ("submitit", "slurm", "hydra.launcher.timeout_min=5"),
    "ray_cluster": ("ray", "ray", "hydra.launcher.ray.init.num_cpus=2"),
}


def results(folder):
    found = [json.loads(path.read_text()) for path in sorted(folder.rglob("results.json"))]
    return [(run["seed"], run["test"]) for run in found]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", PACKAGES)
def test_a_launcher_gives_what_serial_runs_give(metarun, launcher):
    package, extra, key = PACKAGES[launcher]
    if importlib.util.find_spec(f"hydra_plugins.hydra_{package}_launcher") is None:
        done = metarun("-m", f"hydra/launcher={launcher}", key, *JOBS, status=2)
        assert done.stderr == f"metarun: hydra/launcher: this one needs metarun's extra {extra}; pip install 'metarun[{extra}]'\n"
        pytest.skip(f"metarun[{extra}] is not installed")
    metarun("-m", *JOBS, *SHORT, "hydra.sweep.dir=serial")
    done = metarun("-m", f"hydra/launcher={launcher}", key, *JOBS, *SHORT, "hydra.sweep.dir=launched")
    assert done.stdout.splitlines()[-1] == "4 finished"
    assert "sweep: 4 of 4 done, 0 running, 0 failed" in done.stderr
    assert len(results(metarun.folder / "launched")) == 4
    assert results(metarun.folder / "launched") == results(metarun.folder / "serial")
    assert all((path.parent / "metarun.log").read_text() for path in metarun.folder.rglob("results.json"))


def process_of(folder, word):
    """The process with ``word`` and this folder on its command line."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            said = path.read_text()
            if word in said and str(folder) in said:
                return int(path.parent.name)
    return None


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds the job in /proc")
def test_a_preempted_job_writes_a_checkpoint_and_is_put_back_into_the_queue(metarun):
    pytest.importorskip("submitit", reason="metarun[slurm] is not installed")
    keys = ("trainer.iterations=3000", "trainer.checkpoint_every=1000", "trainer.log_every=10", "trainer.validate_every=null")
    process = metarun.start(
        "-m", "hydra/launcher=slurm_local", "seed=0", *SHORT[1:], *keys, f"hydra.sweep.dir={metarun.folder}/out"
    )
    deadline = time.monotonic() + 120
    while not any(len(path.read_text().splitlines()) > 5 for path in metarun.folder.rglob("metrics.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.kill(process_of(metarun.folder, "submitit.core._submit"), signal.SIGUSR2)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    (found,) = metarun.folder.rglob("results.json")
    (resumed_at,) = json.loads(found.read_text())["train"]["resumed_at"]
    assert 0 < resumed_at < 3000  # no checkpoint but the signal's was due
    assert f"finished, resumed at update {resumed_at}" in out

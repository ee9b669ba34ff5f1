"""The same jobs through each launcher: really run here, and skipped where its extra is not installed."""

import importlib.util
import json

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

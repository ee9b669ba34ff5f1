"""Whole runs: the run directory's contract, resuming to the bit, stopping, diverging."""

import json
import os
import signal
import time

import numpy as np
import pytest
import torch
from runs import results, weights

RUN = ("trainer.test_tasks=50", "trainer.figures=false", "hydra.run.dir=run", "trainer.checkpoint_every=0.2")


def kill_when(process, path, step, number=signal.SIGKILL):
    """Send a signal once the metrics say that training has come to ``step``."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        lines = path.read_text().splitlines() if path.exists() else []
        steps = [json.loads(line)["step"] for line in lines[:-1]]
        if steps and max(steps) >= step:
            os.kill(process.pid, number)
            return process.communicate(timeout=60)[1]
        time.sleep(0.01)
    raise AssertionError(f"the run never came to update {step}\n{process.communicate()}")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_checkpoint_and_says_how_to_go_on(metarun, number, status):
    keys = (*RUN[:-1], "trainer.iterations=100000")  # the checkpoint is the signal's: none is due before
    process = metarun.start(*keys)
    err = kill_when(process, metarun.folder / "run/metrics.jsonl", 200, number)
    assert process.returncode == status
    assert err.count("\n") == 1
    assert "stopped at update" in err
    assert "the same command goes on" in err
    stopped = results(metarun.folder / "run")
    assert stopped["status"] == "interrupted"
    step = torch.load(metarun.folder / "run/checkpoints/last.pt", weights_only=True)["position"]["step"]
    assert f"stopped at update {step} of 100000" in err


def test_results_hold_what_the_contract_says(here):
    here(*RUN, "trainer.iterations=200", "trainer.paper_tasks=10", "algo.test_steps=3", "seed=4")
    found = results(here.folder / "run")
    assert found["schema"] == 2
    assert [found[key] for key in ("algo", "data", "cl", "model", "seed")] == ["maml", "sine", "none", "mlp", 4]
    assert found["continual"] is None
    assert set(found["test"]["mse"]) == {"mean", "ci95", "n_tasks", "n_nonfinite", "median"}
    scores = np.load(here.folder / "run/test.npz")["scores"]
    assert scores.shape == (1, 4, 50)
    for row, expected in zip(found["test"]["by_step"], scores[0], strict=True):
        assert row["mean"] == pytest.approx(expected.mean())
        assert row["ci95"] == pytest.approx(1.96 * expected.std(ddof=1) / 50**0.5)
    assert found["test"]["first_tasks"]["mse"]["mean"] == pytest.approx(scores[0, 1, :10].mean())
    assert found["protocol"] == {
        "ways": None,
        "shots": 10,
        "queries": 10,
        "batch_norm": None,
        "n_test_tasks": 50,
        "train": {"ways": None, "shots": 10, "queries": 10, "tasks": 25},
    }
    assert found["environment"]["torch"] == torch.__version__
    assert set(found["environment"]) == {"device", "torch", "metarun", "git", "source", "threads", "ranks"}
    assert list((here.folder / "run").glob("events.out.tfevents.*"))
    lines = [json.loads(line) for line in (here.folder / "run/metrics.jsonl").read_text().splitlines()]
    assert {"train/loss", "time/tasks_per_second"} <= set(lines[0])


def test_stages_fill_the_matrix(here):
    here(*RUN, "trainer.iterations=150", "data.stages=4", "trainer.figures=true")
    found = results(here.folder / "run")["continual"]
    R = np.array(found["R"])
    assert R.shape == (5, 4)
    assert found["acc"] == pytest.approx(-R[4].mean())
    assert found["bwt"] == pytest.approx(-np.mean([R[4, j] - R[j + 1, j] for j in range(3)]))
    assert results(here.folder / "run")["test"]["mse"]["mean"] == pytest.approx(R[4].mean())
    pictures = {path.name for path in (here.folder / "run/figures").iterdir()}
    assert pictures == {"R.png", "adaptation.png", "fits.png", "learning.png", "stages.png"}


def test_divergence_keeps_the_last_good_checkpoint(here):
    keys = (*RUN, "trainer.iterations=500", "trainer.optimizer.lr=1e30", "trainer.log_every=10")
    done = here(*keys, status=1)
    assert done.stderr.count("\n") == 1
    assert "loss is" in done.stderr or "weight is not finite" in done.stderr
    assert results(here.folder / "run")["status"] == "diverged"
    assert all(bool(w.isfinite().all()) for w in weights(here.folder / "run").values())
    again = here(*keys, status=1)
    assert "Already diverged" in again.stdout
    assert "restart=true" in again.stderr


def test_a_checkpoint_of_other_code_is_not_continued_silently(here):
    keys = (*RUN, "trainer.iterations=50")
    here(*keys)
    path = here.folder / "run/checkpoints/last.pt"
    torch.save({**torch.load(path, weights_only=True), "source": "other"}, path)
    (here.folder / "run/results.json").unlink()  # as if killed before its test
    assert "the code has changed since this unfinished run began" in here(*keys, status=2).stderr
    here(*keys, "any_code=true")
    assert results(here.folder / "run")["train"]["resumed_at"] == [50]


def test_bfloat16_and_first_order_train(here):
    here(*RUN, "algo=fomaml", "trainer.precision=bfloat16", "trainer.iterations=30")
    assert results(here.folder / "run")["status"] == "finished"

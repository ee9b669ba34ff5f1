"""Sweeps: what has become of each job, told from the run directories."""

import json
import os
import signal
import time

import pytest

from metarun import sweep
from metarun.sweep import Job, SweepFailed, Watch, check, summary

SHORT = ("trainer.iterations=20", "trainer.test_tasks=20", "trainer.figures=false", "trainer.tensorboard=false")


def begin(path):
    (path / ".hydra").mkdir(parents=True, exist_ok=True)
    (path / ".hydra/overrides.yaml").write_text("[]")


def end(path, status, **more):
    test = {"mse": {"mean": 1.0, "ci95": 0.5, "n_tasks": 3, "n_nonfinite": 0, "median": 1.0}}
    content = {"status": status, "test": test, "train": {"resumed_at": []}, "environment": {"source": "s"}, **more}
    (path / "results.json").write_text(json.dumps(content))


def jobs_of(path, count, **keys):
    return [Job([f"seed={i}", "algo=maml"], path / str(i), "s", **keys) for i in range(count)]


def line_with(text, capsys):
    """The line on stderr that says ``text``, waited for."""
    said, deadline = "", time.monotonic() + 30
    while text not in said:
        assert time.monotonic() < deadline, said
        time.sleep(0.005)
        said += capsys.readouterr().err
    return next(line for line in said.splitlines() if text in line)


def test_the_states_of_a_job(tmp_path):
    (job,) = jobs_of(tmp_path, 1)
    assert job.status == "waiting"
    begin(tmp_path / "0")
    assert job.status == "running"
    end(tmp_path / "0", "interrupted")
    assert job.status == "interrupted"
    time.sleep(0.01)
    end(tmp_path / "0", "finished", train={"resumed_at": [300]})
    assert (job.status, job.outcome(), job.score()) == ("finished", "finished, resumed at update 300", "mse 1.000 ± 0.500")


def test_what_is_finished_is_skipped_unless_it_shall_be_made_anew(tmp_path):
    begin(tmp_path / "0")
    end(tmp_path / "0", "finished")
    begin(tmp_path / "1")
    end(tmp_path / "1", "interrupted")
    first, second, third = jobs_of(tmp_path, 3)
    assert first.skipped
    assert first.outcome() == "skipped: finished"
    assert not second.skipped
    assert (second.status, third.status) == ("waiting", "waiting")
    assert "by other code" in Job([], tmp_path / "0", "t").outcome()
    (again,) = jobs_of(tmp_path, 1, anew=True)
    assert (again.skipped, again.status) == (False, "waiting")


def test_a_watch_counts_and_a_job_that_vanished_has_failed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "EVERY", 0.005)
    jobs = jobs_of(tmp_path, 4)
    with Watch(jobs):
        for path in (tmp_path / "0", tmp_path / "1", tmp_path / "2"):
            begin(path)
        end(tmp_path / "0", "finished")
        lines = [line_with("1 of 4 done", capsys)]
        end(tmp_path / "1", "failed", stopped="no\nway")
        lines.append(line_with("2 of 4 done", capsys))
    lines.append(line_with("3 of 4 done", capsys))
    assert lines[0].startswith("sweep: 1 of 4 done, 2 running, 0 failed, 00:0")
    assert lines[1].startswith("sweep: 2 of 4 done, 1 running, 1 failed")
    assert lines[2].startswith("sweep: 3 of 4 done, 0 running, 2 failed")
    rows = summary(jobs).splitlines()
    assert rows[0].split() == ["seed=0", "finished", "mse", "1.000", "±", "0.500", str(tmp_path / "0")]
    assert "failed: it ended without a message" in rows[2]
    assert rows[-1] == "2 failed, 1 finished, 1 waiting"
    with jobs[2].folder.claimed():
        assert jobs[2].outcome() == "failed: another process is at work on this run"
    with pytest.raises(SweepFailed, match=r"^2 of 4 jobs failed; the first: no way \(.*/1/metarun.log\)$"):
        check(jobs)


def test_a_failure_stops_no_other_job_and_the_same_sweep_does_what_is_missing(here):
    """One job is a user's mistake, one a bug, one diverges; the fourth is finished, and shown the second time."""
    (here.folder / "broken.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, shape, outputs, widths: object, init: object, std: object):\n"
        "        raise KeyError('oh')\n"
    )
    nets = "model._target_=metarun.model.mlp.MLP,broken.Net"
    done = here("-m", nets, "trainer.optimizer.lr=0.001,1e30", *SHORT, status=1)
    assert done.stderr.splitlines()[-1].startswith("metarun: 3 of 4 jobs failed; the first: ")
    assert "sweep: 4 of 4 done, 0 running, 3 failed" in done.stderr
    assert done.stdout.splitlines()[-1] == "2 failed, 1 finished, 1 diverged"
    logs = [path.parent / "metarun.log" for path in here.folder.glob("outputs/**/results.json")]
    assert sum("KeyError: 'oh'" in log.read_text() and "Traceback" in log.read_text() for log in logs) == 2
    again = here("-m", nets, "trainer.optimizer.lr=0.001,1e30", *SHORT, status=1)
    assert again.stdout.splitlines()[-1] == "2 skipped, 2 failed"


def test_a_stopped_sweep_says_so_and_goes_on(metarun, here):
    keys = ("-m", "seed=0,1", "trainer.iterations=1500", *SHORT[1:])
    process = metarun.start(*keys)
    deadline = time.monotonic() + 60
    # The file is created before the run listens for signals, and its first line written after.
    while not any(path.stat().st_size for path in metarun.folder.glob("outputs/**/metrics.jsonl")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGUSR1)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGUSR1
    assert out.splitlines()[-1] == "1 interrupted, 1 waiting"
    assert "stopped at update" in err.splitlines()[-1]
    assert len(list(metarun.folder.glob("outputs/**/last.pt"))) == 1
    assert "resumed at update" in here("-m", "seed=0", *keys[2:]).stdout


def test_a_list_of_grids_is_one_sweep_with_each_job_once(here):
    table = here.folder / "conf/table/mine.yaml"
    table.parent.mkdir(parents=True)
    grids = [
        {"seed": "0,1", "data.train_shots": None},
        {"seed": "1,2", "data.train_shots": None, "algo.inner_lr": 0.02},
        {"seed": 1},
    ]
    table.write_text("# @package _global_\nhydra:\n  sweeper:\n    params: " + json.dumps(grids) + "\n")
    done = here("-m", "+table=mine", "data.train_shots=null", *SHORT)
    rows = [line.split("  finished")[0].strip() for line in done.stdout.splitlines() if line.startswith("seed=")]
    assert rows == ["seed=0", "seed=1", "seed=1 algo.inner_lr=0.02", "seed=2 algo.inner_lr=0.02"]


def test_an_interval_is_for_a_search_alone(here):
    line = here("-m", "algo.inner_lr=interval(0.01,0.1)", *SHORT, status=2).stderr
    assert line.startswith(
        "metarun: algo.inner_lr=interval(0.01,0.1): only a search takes an interval; list values, or add +search="
    )
    assert line.count("\n") == 1

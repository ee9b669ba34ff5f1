"""Several processes make the run that one makes: gradients, figures, memories, and what becomes of it when they are stopped."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from shared_out import CASES, KEYS, NET, made, train, whole_run

from metarun.cl.method import ContinualMethod
from metarun.config import CONFIGS, ConfigError
from metarun.ranks import Ranks, launched
from metarun.tracking import RunFolder
from metarun.trainer.trainer import Trainer

HERE = Path(__file__).resolve().parents[1]
ALGORITHMS = sorted(path.stem for path in (CONFIGS / "algo").glob("*.yaml"))
LEARNERS = [
    *(f"{algo} sine" for algo in ALGORITHMS if algo not in ("protonet", "matchingnet", "relationnet", "scratch", "nearest")),
    *(f"{algo} algo.batch_norm=running pictures" for algo in ("maml", "mamlpp", "protonet", "relationnet", "oml", "reptile")),
    "taskembed algo.outer=reptile sine",
    "metalearner algo.network=hypernet pictures",
]
NOT_SHARED_OUT = {
    "taskembed algo.adapt=nearest sine": r"algo\.adapt=nearest: remembers all tasks",
    "taskembed algo.encoder=similarity sine": r"algo\.encoder=similarity: compares the tasks",
    "finetune pictures": "model: batch norms take all tasks of an update as one batch",
    "nearest algo.space=embedding pictures": "model: batch norms take all tasks of an update as one batch",
}


def test_parts_are_all_tasks_once_and_of_nearly_one_size():
    for tasks in range(12):
        for size in range(1, 6):
            parts = [list(range(tasks))[Ranks(rank, size).shard(tasks)] for rank in range(size)]
            assert [task for part in parts for task in part] == list(range(tasks))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1


def after_backward(name, parts):
    """Mean over ``parts`` of six tasks of the gradients, and of the floating-point buffers, as each part's process has them."""
    algo, _, data = name.rpartition(" ")
    total = None
    for part in parts:
        stages, learner = made(algo, data)
        learner.train()
        torch.manual_seed(1)
        learner.backward(stages[0].train.sample(torch.arange(6)[part]))
        found = {n: w.grad for n, w in learner.named_parameters() if w.grad is not None}
        found |= {n: value.clone() for n, value in learner.named_buffers() if value.is_floating_point()}
        share = len(range(6)[part]) / 6
        total = {n: share * value + (total[n] if total else 0) for n, value in found.items()}
    return total


@pytest.mark.parametrize("name", LEARNERS)
def test_gradients_of_parts_average_to_that_of_the_whole(name):
    whole, parts = after_backward(name, [slice(0, 6)]), after_backward(name, [slice(0, 1), slice(1, 3), slice(3, 6)])
    assert whole.keys() == parts.keys()
    assert any(value.any() for value in whole.values())
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-12, atol=1e-13, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("name", NOT_SHARED_OUT)
def test_learners_of_all_tasks_together_are_refused(name, tmp_path):
    algo, _, data = name.rpartition(" ")
    stages, learner = made(algo, data)
    trainer = Trainer(0, iterations=1, tasks=4, optimizer={"_target_": "torch.optim.SGD", "lr": 0.1})
    with pytest.raises(ConfigError, match=NOT_SHARED_OUT[name]):
        trainer.fit(learner, stages, ContinualMethod(), RunFolder(tmp_path), "tests", Ranks(0, 2))
    whole, parts = after_backward(name, [slice(0, 6)]), after_backward(name, [slice(0, 2), slice(2, 6)])
    assert any(not torch.allclose(whole[key], parts[key], rtol=1e-6) for key in whole)  # and rightly so


def test_fewer_tasks_than_processes_are_refused(tmp_path):
    stages, learner = made("maml", "sine")
    trainer = Trainer(0, iterations=1, tasks=3, optimizer={"_target_": "torch.optim.SGD", "lr": 0.1})
    with pytest.raises(ConfigError, match=r"trainer\.tasks=3: expected 4 or more, one for each of torchrun's processes"):
        trainer.fit(learner, stages, ContinualMethod(), RunFolder(tmp_path), "tests", Ranks(0, 4))
    assert not any(tmp_path.iterdir())


def environment(rank, size, port):
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]), **{k: str(v) for k, v in place.items()}}


def test_several_processes_are_told_by_the_environment(monkeypatch):
    assert launched() is None
    for key, value in environment(1, 2, 1234).items():
        monkeypatch.setenv(key, value)
    assert (launched().rank, launched().size, launched().local, launched().first) == (1, 2, 1, False)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launched() is None


def test_what_is_no_training_of_one_run_is_refused(metarun):
    metarun.environment |= environment(0, 2, 1234)
    assert "torchrun: divides one run" in metarun("-m", "seed=0,1", status=2).stderr
    refused = metarun("show", "data=sine", status=2).stderr
    assert refused == "metarun: torchrun: divides the training of one run; use metarun show without it\n"
    metarun.environment |= environment(1, 2, 1234)
    assert metarun("show", "data=sine", status=2).stderr == ""  # one process speaks
    assert not any(metarun.folder.iterdir())


def stopped_under_torchrun(folder):
    """Start a run by the command line in two processes, and send torchrun a signal in the middle of it → results.json."""
    (folder / "tests_net.py").write_text(NET)
    metrics, pipe = folder / "run" / "metrics.jsonl", subprocess.PIPE
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "metarun", *KEYS]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    process = subprocess.Popen([*command, "hydra.run.dir=run"], cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)
    deadline = time.monotonic() + 60
    while not metrics.exists() or not metrics.read_text():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert (out.count("2 processes"), err.count("metarun: stopped at update")) == (1, 1), err  # one process speaks
    return json.loads((folder / "run/results.json").read_text())


@pytest.mark.slow
def test_two_processes_make_what_one_makes(tmp_path, monkeypatch):
    monkeypatch.setenv("METARUN_PACKAGES", "tests_net")
    stopped = stopped_under_torchrun(tmp_path)
    (tmp_path / "fast").touch()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", str(HERE / "shared_out.py"), str(tmp_path)]
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen(command, env=environment(rank, 2, port), stdout=pipe, stderr=subprocess.STDOUT, text=True)
        for rank in range(2)
    ]
    monkeypatch.syspath_prepend(tmp_path)
    one = whole_run(tmp_path / "one")
    alone = {name: train(name, tmp_path / "alone" / name) for name in CASES}
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)

    two = json.loads((tmp_path / "run/results.json").read_text())
    assert stopped["status"] == "interrupted"
    assert (one["environment"]["ranks"], two["environment"]["ranks"]) == (1, 2)
    (at,) = two["train"]["resumed_at"]
    assert 0 < at < 60
    assert stopped["stopped"] == f"stopped at update {at} of 60"
    for part in ("test", "validation"):
        assert two[part]["mse"]["mean"] == pytest.approx(one[part]["mse"]["mean"], rel=1e-4)
    last, expected = (
        torch.load(tmp_path / name / "checkpoints/last.pt", weights_only=True)["algorithm"] for name in ("run", "one")
    )
    torch.testing.assert_close(last, expected, rtol=1e-4, atol=1e-5)
    assert len(list((tmp_path / "run").glob("events.out.tfevents.*"))) == 3  # one of each start, and the test's

    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, expected in alone.items():
        torch.testing.assert_close(ranks[0][name], expected, rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")
        torch.testing.assert_close(ranks[1][name], ranks[0][name], rtol=0, atol=0, msg=lambda m, n=name: f"{n}: {m}")
        assert (tmp_path / "rank 0" / name / "metrics.jsonl").is_file()
        assert not (tmp_path / "rank 1" / name).exists()
    first, second = ranks[0]["draws False"]
    assert not torch.equal(first, second)
    assert torch.equal(*ranks[0]["draws True"])
    assert torch.equal(*ranks[0]["after"])
    assert torch.equal(first, ranks[0]["after"][0])  # the first process draws what it would alone, and nothing is used up
    assert "another process of this run has ended" in (tmp_path / "lost").read_text()

"""The page that compares runs, from made-up run directories."""

import json
import time
from html.parser import HTMLParser

import numpy as np
import pytest

from metarun.report.page import adaptation_curve, compare, learning_curve, methods, page, save
from metarun.report.runs import collect
from metarun.report.statistics import paired


def write(path, algo, seed, scores, *, status="finished", overrides=(), stages=None, metrics=()):
    """``scores`` (stages, tasks) of the test, accuracies."""
    scores = np.atleast_2d(np.array(scores, np.float64))
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra/overrides.yaml").write_text(json.dumps([f"algo={algo}", f"seed={seed}", "trainer.threads=1", *overrides]))
    mean = {"mean": float(scores.mean()), "ci95": 0.01, "n_tasks": scores.size, "n_nonfinite": 0, "median": 0.5}
    by_step = [{"step": step, "mean": 0.1 * step + 0.01 * seed, "ci95": 0.01} for step in range(3)]
    results = {
        "status": status,
        "algo": algo,
        "data": "omniglot",
        "cl": "none",
        "seed": seed,
        "test": {"accuracy": mean, "by_step": by_step},
        "continual": stages and {"R": [[0.2, 0.2], [0.9, 0.3], [0.5, 0.8]], "stages": stages, "bwt": -0.4, "forgetting": 0.4},
        "protocol": {"ways": 5, "shots": 1, "queries": 15, "batch_norm": "support", "n_test_tasks": 3, "train": {"tasks": 4}},
        "train": {"iterations": 300, "seconds": 12.0},
        "environment": {"device": "cpu", "git": "abc"},
    }
    (path / "results.json").write_text(json.dumps(results))
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics) + '{"step": 9')  # killed while writing
    np.savez(path / "test.npz", scores=scores[:, None, :], stages=np.array(stages or ["all"]))


def curve(*values):
    """Validated every hundred updates at 40 tasks a second."""
    lines = []
    for i, value in enumerate(values, 1):
        lines += [{"step": 100 * i, "train/loss": 1.0, "time/tasks_per_second": 40.0}, {"step": 100 * i, "val/accuracy": value}]
    return lines


@pytest.fixture
def runs(tmp_path):
    for seed in range(2):
        write(tmp_path / f"a{seed}", "maml", seed, [0.5, 0.7, 0.9], metrics=curve(0.5 + 0.1 * seed, 0.6))
        write(tmp_path / f"b{seed}", "protonet", seed, [0.6, 0.9, 0.8], metrics=curve(0.8, 0.9))
    write(tmp_path / "b1" / "eval" / "x", "protonet", 1, [0.1])  # a test of a run is no run
    write(tmp_path / "old" / "superseded" / "1", "protonet", 3, [0.1])
    return tmp_path


def test_methods_are_runs_of_one_configuration(runs):
    write(runs / "c", "maml", 0, [0.1, 0.2, 0.3], overrides=["algo.inner_lr=0.5"])
    found = methods(collect([runs]))
    assert [(method.name, [run.seed for run in method.runs]) for method in found] == [
        ("maml", [0, 1]),
        ("maml inner_lr=0.5", [0]),
        ("protonet", [0, 1]),
    ]


def test_what_the_algorithm_implies_is_not_in_a_name(runs):
    write(runs / "c", "reptile", 0, [0.1, 0.2, 0.3], overrides=["algo.inner_lr=0.5"])
    assert [method.name for method in methods(collect([runs]))] == ["maml", "protonet", "reptile"]


def test_a_paired_test_over_the_tasks_of_the_same_seeds(runs):
    write(runs / "b2", "protonet", 2, [0.0, 0.0, 0.0])  # of a seed that the other has not
    maml, protonet = methods(collect([runs]))
    expected = paired(np.array([0.6, 0.9, 0.8] * 2), np.array([0.5, 0.7, 0.9] * 2))
    assert compare(protonet, maml) == expected
    assert "protonet</code></td><td><code>maml" in page(collect([runs / "a0", runs / "b0"]))


def test_stages_are_compared_by_name(tmp_path):
    write(tmp_path / "a", "maml", 0, [[1.0, 0.5], [0.1, 0.2]], stages=["one", "two"])
    write(tmp_path / "b", "anil", 0, [[0.1, 0.2], [1.0, 0.5]], stages=["two", "one"])
    assert compare(*methods(collect([tmp_path]))).p == 1.0


def test_a_score_that_is_not_finite_is_not_tested(tmp_path):
    write(tmp_path / "a", "maml", 0, [0.5, np.inf, 0.9])
    write(tmp_path / "b", "anil", 0, [0.6, 0.9, 0.8])
    assert compare(*methods(collect([tmp_path]))) is None


def test_curves_by_hand(runs):
    maml, _ = methods(collect([runs]))
    updates, seconds, tasks = (learning_curve(maml, axis) for axis in ("updates", "seconds", "tasks"))
    np.testing.assert_allclose(updates.x, [100, 200])
    np.testing.assert_allclose(seconds.x, [10, 20])  # 400 tasks at 40 a second
    np.testing.assert_allclose(tasks.x, [400, 800])
    np.testing.assert_allclose(updates.mean, [55, 60])
    np.testing.assert_allclose(updates.ci95, [12.7062 * 5, 0], atol=1e-3)
    steps = adaptation_curve(maml)
    np.testing.assert_allclose(steps.x, [0, 1, 2])
    np.testing.assert_allclose(steps.mean, [0.5, 10.5, 20.5])


class Looks(HTMLParser):
    def __init__(self):
        super().__init__()
        self.sources, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for key, value in attrs if key in ("src", "href")]


def test_the_page_is_one_file_that_needs_no_network(runs, tmp_path):
    write(runs / "d", "ewc<b>", 0, [[0.5, 0.5], [0.8, 0.8]], stages=["one", "two"], overrides=["cl=ewc"])
    write(runs / "e", "reptile", 0, [0.5], status="diverged")
    path = save(collect([runs]), tmp_path / "out" / "report.html")
    text = path.read_text()
    looks = Looks()
    looks.feed(text)
    assert looks.sources
    assert "http:" not in text
    assert "https:" not in text
    assert "<b>" not in text
    for word in ("6 runs", "Paired tests", "Streams: R", "diverged", "70.00", "76.67"):
        assert word in text


def test_two_hundred_runs_take_seconds(tmp_path):
    for i in range(200):
        write(tmp_path / str(i), "maml", i % 5, [0.5, 0.6], overrides=[f"algo.inner_lr={i // 5}"], metrics=curve(0.5, 0.6, 0.7))
    start = time.process_time()
    page(collect([tmp_path]))
    assert time.process_time() - start < 10

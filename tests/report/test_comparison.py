"""Paired comparisons of methods tested on the same tasks."""

import numpy as np
import pytest
from page_runs import cells, write

from metarun.metric import ACCURACY, MSE
from metarun.report.comparison import compare, rank
from metarun.report.methods import methods
from metarun.report.page import page
from metarun.report.runs import collect
from metarun.report.statistics import paired


def test_a_paired_test_over_the_tasks_of_the_same_seeds(runs):
    write(runs / "b2", "protonet", 2, [0.0, 0.0, 0.0])  # of a seed that the other has not
    maml, protonet = methods(collect([runs]))
    expected = paired(np.array([0.6, 0.9, 0.8] * 2), np.array([0.5, 0.7, 0.9] * 2))
    assert compare(protonet, maml) == expected
    (row,) = cells(page(collect([runs / "a0", runs / "a1", runs / "b0", runs / "b1"])), "Paired tests")
    assert row == {
        "best": "protonet",
        "other": "maml",
        "difference": f"+6.67 ± {100 * expected.ci95:.2f}",
        "t": f"{expected.t:.2f}",
        "df": "5",
        "p": f"{expected.p:.2g}",
        "p (Holm)": f"{expected.p:.2g}",
        "runs": "2 and 2",
    }


def test_different_test_tasks_are_never_paired(tmp_path):
    """Two papers' rows with the same ways, shots and numbers, on other characters."""
    scores = [0.5, 0.7, 0.9]
    write(tmp_path / "a", "metasgd", 0, scores, overrides=["+paper=metasgd_omniglot_5way_1shot"], tested="maml's split")
    write(tmp_path / "b", "protonet", 0, scores[::-1], overrides=["+paper=protonet_omniglot_5way_1shot"], tested="vinyals' split")
    assert compare(*methods(collect([tmp_path]))) is None
    assert "Paired tests" not in page(collect([tmp_path]))


def test_what_changes_training_alone_is_paired(tmp_path):
    write(tmp_path / "a", "maml", 0, [0.5, 0.7, 0.9], overrides=["data.train_ways=20", "data.flip=true"])
    write(tmp_path / "b", "protonet", 0, [0.6, 0.9, 0.8])
    assert compare(*methods(collect([tmp_path]))) == paired(np.array([0.5, 0.7, 0.9]), np.array([0.6, 0.9, 0.8]))
    assert len(cells(page(collect([tmp_path])), "Paired tests")) == 1


def test_runs_that_do_not_record_their_test_tasks_are_not_paired(tmp_path):
    write(tmp_path / "a", "maml", 0, [0.5, 0.7, 0.9], tested=None)
    write(tmp_path / "b", "protonet", 0, [0.6, 0.9, 0.8])
    text = page(collect([tmp_path]))
    assert cells(text, "Paired tests") == []
    assert "come from an older version" in text
    assert "paired tests: <code>maml</code>. Use <code>metarun eval RUN</code>" in " ".join(text.split())
    write(tmp_path / "a/eval/1", "maml", 0, [0.1, 0.1, 0.1], of=["data.shots=5"])  # another test
    assert cells(page(collect([tmp_path])), "Paired tests") == []
    write(tmp_path / "a/eval/2", "maml", 0, [0.5, 0.7, 0.6], of=[])
    assert compare(*methods(collect([tmp_path]))) == paired(np.array([0.5, 0.7, 0.6]), np.array([0.6, 0.9, 0.8]))
    assert "older version" not in page(collect([tmp_path]))


def test_a_fixed_test_set_counts_once_however_many_seeds(tmp_path):
    for seed, (a, b) in enumerate([([1, 0, 1, 1], [0, 0, 1, 0]), ([1, 1, 0, 1], [0, 1, 0, 1])]):
        write(tmp_path / f"a{seed}", "maml", seed, a, tested="all test images")
        write(tmp_path / f"b{seed}", "protonet", seed, b, tested="all test images")
    assert compare(*methods(collect([tmp_path]))) == paired(np.array([1, 0.5, 0.5, 1]), np.array([0, 0.5, 0.5, 0.5]))


def test_stages_are_compared_by_name(tmp_path):
    write(tmp_path / "a", "maml", 0, [[1.0, 0.5], [0.1, 0.2]], stages=["one", "two"])
    write(tmp_path / "b", "anil", 0, [[0.1, 0.2], [1.0, 0.5]], stages=["two", "one"])
    assert compare(*methods(collect([tmp_path]))).p == 1.0


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_score_that_is_not_finite_is_not_tested(tmp_path, bad):
    write(tmp_path / "a", "maml", 0, [0.5, bad, 0.9])
    write(tmp_path / "b", "anil", 0, [0.6, bad, 0.8])
    assert compare(*methods(collect([tmp_path]))) is None


def test_the_best_comes_first_and_what_is_not_finite_last():
    values = {"good": [0.5, 1.0], "better": [0.25, 0.5], "lost": [None, 0.1], "nan": [float("nan")], "wild": [float("inf"), 0.0]}
    assert sorted(values, key=lambda name: rank(values[name], MSE)) == ["better", "good", "lost", "nan", "wild"]
    assert sorted(values, key=lambda name: rank(values[name], ACCURACY)) == ["good", "better", "lost", "nan", "wild"]


def test_a_single_task_and_unlike_numbers_of_them_are_not_compared(tmp_path):
    for name, tasks in (("a", 1), ("b", 1), ("c", 2), ("d", 2), ("e", 3)):
        write(tmp_path / name, name, 0, [0.5, 0.7, 0.9][:tasks], tested="the same")
    found = dict(zip("abcde", methods(collect([tmp_path])), strict=True))
    assert compare(found["a"], found["b"]) is None
    assert compare(found["c"], found["d"]).df == 1
    assert compare(found["c"], found["e"]) is None


def test_a_run_with_unreadable_scores_is_not_compared_either_way(tmp_path):
    write(tmp_path / "a", "maml", 0, [0.5, 0.7])
    write(tmp_path / "b", "anil", 0, [0.5, 0.9])
    (tmp_path / "b/test.npz").unlink()
    anil, maml = methods(collect([tmp_path]))
    assert compare(anil, maml) is None
    assert compare(maml, anil) is None

"""Scores of a run, and means over seeds."""

import pytest

from metarun.config import CONFIGS
from metarun.report.runs import Run
from metarun.report.scores import Measure, mean_of, score


def test_means_by_hand():
    assert mean_of([], 2) == ""
    assert mean_of([1.0, None], 2) == ""
    assert mean_of([1.0, 3.0], 2) == Measure(2.0, pytest.approx(12.706, abs=1e-3), 2)
    assert Measure(-1.25, None, 2, "+").text() == "-1.25"


def test_intervals_over_tasks_are_those_of_the_figure_itself():
    test = {
        "mse": {"mean": 0.5, "ci95": 0.1},
        "by_step": [{"step": 3, "mean": None, "ci95": None}, {"step": 5, "mean": 1, "ci95": 2}],
    }
    stream = {"acc": 0.5, "bwt": -0.25, "R": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "online": None}
    run = Run(CONFIGS, {"test": test, "continual": stream}, {})
    found = {name: score(run, name) for name in ("test", "step 5", "step 4", "acc", "bwt", "last stage", "online", "forgetting")}
    assert found == {
        "test": (0.5, 0.1),
        "step 5": (1, 2),
        "step 4": (None, None),
        "acc": (0.5, 0.1),
        "bwt": (-0.25, None),
        "last stage": (6.0, None),
        "online": (None, None),
        "forgetting": (None, None),
    }
    assert str(score(run, "step 3")[0]) == "nan"
    plain = Run(CONFIGS, {"test": {"accuracy": {"mean": 0.5, "ci95": None}}}, {})
    assert score(plain, "test") == (50.0, None)
    assert score(plain, "last stage") == score(plain, "length 5") == score(plain, "acc") == (None, None)

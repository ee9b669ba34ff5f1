"""Warm starts: the best of similar tasks first, then what a regression over task and configuration expects most of."""

import json

import numpy as np
import pytest

pytest.importorskip("optuna", reason="metarun[search] is not installed")

from metarun.config import ConfigError
from metarun.search.experience import experience, proposals
from metarun.search.space import Dimension

SPACE = [Dimension("algo.inner_lr", 0.001, 1.0, log=True)]


def save(folder, number, data, features, lr, error, algo="maml", status="finished"):
    path = folder / str(number)
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra/config.yaml").write_text(f"algo: {{inner_lr: {lr}}}\ndata: {{name: {data}}}\n")
    found = {"algo": algo, "cl": "none", "status": status, "validation": {"mse": {"mean": error}}, "task_features": features}
    (path / "results.json").write_text(json.dumps(found))


def task_error(place, rate):
    """The best rate of the task at ``place`` is 10**(place - 2.5)."""
    return 1 + (np.log10(rate) - (place - 2.5)) ** 2


@pytest.fixture
def runs(tmp_path):
    number = 0
    for task, place in enumerate((0.0, 0.5, 1.0, 1.5, 2.0)):
        for rate in np.logspace(-3, 0, 13):
            save(tmp_path, number, f"t{task}", {"a": place, "b": 3.0}, float(rate), float(task_error(place, rate)))
            number += 1
    save(tmp_path, 100, "t9", {"a": 0.1, "b": 3.0}, 0.5, 0.0, algo="reptile")
    save(tmp_path, 101, "t9", {"c": 0.1}, 0.5, 0.0)
    save(tmp_path, 102, "t9", {"a": 0.1, "b": 3.0}, 0.5, None)
    save(tmp_path, 103, "t9", {"a": 0.1, "b": 3.0}, 5.0, 0.0)
    return tmp_path


def test_what_is_read_of_earlier_runs(runs):
    tasks = experience(runs, SPACE, {"algo": "maml", "cl": "none"}, ["a", "b"])
    assert [len(task.errors) for task in tasks] == [13] * 5
    np.testing.assert_allclose(tasks[1].features, [0.5, 3.0])
    assert tasks[0].errors.min() == pytest.approx(1.0)


@pytest.mark.parametrize("place", [0.3, 1.1, 1.9])
def test_similar_tasks_lead_to_good_values_and_the_regression_to_better_ones(runs, place):
    tasks = experience(runs, SPACE, {"algo": "maml", "cl": "none"}, ["a", "b"])
    found = [values["algo.inner_lr"] for values in proposals(tasks, np.array([place, 3.0]), SPACE, 6, 0)]
    assert len(found) == len(set(found)) == 6
    errors = [task_error(place, rate) for rate in found]
    assert errors[0] < 1.1  # the most similar task's best
    assert min(errors[3:]) < 1.05  # between the known ones


def test_no_experience_is_said(tmp_path):
    with pytest.raises(ConfigError, match=r"search\.warm_start: expected finished runs"):
        proposals([], np.zeros(2), SPACE, 3, 0)

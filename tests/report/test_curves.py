"""Curves of methods over seeds."""

import numpy as np
from page_runs import curve, write

from metarun.report.curves import _clock, adaptation_curve, learning_curve
from metarun.report.methods import methods
from metarun.report.runs import collect


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


def test_curves_need_points_and_streams_have_none(tmp_path):
    write(tmp_path / "a", "maml", 0, [0.5, 0.7])
    write(tmp_path / "b", "oml", 0, [[0.5], [0.8]], stages=["one", "two"], metrics=curve(0.5, 0.6))
    write(tmp_path / "c", "anil", 0, [0.5, 0.7], metrics=[{"step": 100, "val/accuracy": 0.5}])  # no speed logged
    write(tmp_path / "d", "cnp", 0, [0.5, 0.7], metrics=curve(0.5, 0.6, 0.7))
    found = {method.name: method for method in methods(collect([tmp_path]))}
    axes = ("updates", "seconds", "tasks")
    assert [learning_curve(found["maml"], axis) for axis in axes] == [None, None, None]
    assert [learning_curve(found["oml"], axis) for axis in axes] == [None, None, None]
    assert [learning_curve(found["anil"], axis) is None for axis in axes] == [False, True, False]
    np.testing.assert_allclose(learning_curve(found["cnp"], "seconds").x, [10, 20, 30])


def test_two_steps_are_a_curve_and_one_is_none(tmp_path):
    for name, steps in (("a", 0), ("b", 1), ("c", 2)):
        by_step = [{"step": step, "mean": 0.5} for step in range(steps)]
        test = {"accuracy": {"mean": 0.5, "ci95": None, "n_tasks": 2}} | ({"by_step": by_step} if steps else {})
        write(tmp_path / name, name, 0, [0.5, 0.5], test=test)
    none, one, two = methods(collect([tmp_path]))
    assert adaptation_curve(none) is adaptation_curve(one) is None
    assert adaptation_curve(two).x.tolist() == [0, 1]


def test_training_starts_at_no_seconds():
    """Between the untrained learner and the first speed that was logged, the clock goes evenly."""
    seconds = _clock([(100, 40.0), (200, 20.0)], 4)
    assert [seconds(step) for step in (0, 50, 100, 150, 200)] == [0, 5, 10, 25, 40]

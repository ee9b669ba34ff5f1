"""After how many inner steps a run's figures are taken, and test tasks that diverge."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import OmegaConf
from runs import SMALL, composed, run_in

import metarun
from metarun.algo.algorithm import recorded_steps
from metarun.kinds import CLASSIFICATION, REGRESSION
from metarun.metric import MSE
from metarun.report.runs import collect
from metarun.trainer.evaluation import evaluate
from metarun.trainer.headline import Headline, diverged
from metarun.use import evaluate as eval_run

DIVERGING = ("algo.inner_lr=0.3", "algo.test_steps=10", "trainer.iterations=200")
"""One step is bearable, ten steps are not."""


def headline(how, kind=REGRESSION, steps=10, trained=1):
    looks = lambda count: sorted({*recorded_steps(count), min(count, trained or 0)})  # noqa: E731
    return Headline(how, SimpleNamespace(spec=SimpleNamespace(kind=kind), steps=steps, trained_steps=trained, eval_steps=looks))


@pytest.mark.parametrize(
    ("how", "kind", "steps", "trained", "expected"),
    [
        ("auto", REGRESSION, 10, 1, ("trained", 1, 1, False)),
        ("auto", CLASSIFICATION, 10, 5, ("validation", 5, 5, True)),
        ("auto", REGRESSION, 50, 16, ("trained", 16, 5, False)),  # 0, 1, 2, 5, 10, 16, 20, 50
        ("auto", REGRESSION, 3, 5, ("trained", 3, 3, False)),  # a test of fewer steps than training
        ("auto", REGRESSION, 100, None, ("last", 100, 7, False)),  # training takes none
        ("last", CLASSIFICATION, 10, 5, ("last", 10, 10, False)),
        ("trained", CLASSIFICATION, 10, 5, ("trained", 5, 5, False)),
        ("validation", REGRESSION, None, None, (None, None, 0, False)),  # no inner steps at all
    ],
)
def test_which_number_of_steps(how, kind, steps, trained, expected):
    found = headline(how, kind, steps, trained)
    assert (found.chosen_by, found.steps, found.place, found.path) == expected


def test_the_best_mean_over_stages_on_validation():
    errors = [np.array([[3.0, 5.0], [1.0, 1.0], [2.0, 2.0]]), np.array([[3.0, 3.0], [4.0, 4.0], [1.0, 1.0]])]
    assert headline("validation", steps=2).best(errors) == 2  # 3.5, 2.5, 1.5
    assert headline("validation", CLASSIFICATION, steps=2).best(errors) == 0
    assert headline("validation", steps=2).best([np.array([[2.0], [1.0], [1.0]])]) == 1  # the first of equals
    assert headline("validation", steps=2).best([np.array([[2.0], [math.nan], [3.0]])]) == 0  # not finite: not chosen
    assert headline("validation", steps=2, trained=1).best([np.full((3, 1), math.inf)]) == 1
    assert headline("trained", steps=2, trained=1).best([np.full((1, 1), math.inf)]) == 0  # there is one row alone


def test_diverged_tasks_are_counted_and_named():
    a = np.array([[1.0, 2.0, 3.0], [0.5, 20.5, 20.0]])  # 2 before adaptation: above 20 has diverged
    b = np.array([[0.1, 0.1, 0.1], [0.9, math.inf, 1.2]])
    found = diverged({"a": a, "b": b}, 1, MSE)
    assert found["n"] == 3
    assert found["tasks"] == [
        {"stage": "b", "task": 1, "mse": None},
        {"stage": "a", "task": 1, "mse": 20.5},
        {"stage": "b", "task": 2, "mse": 1.2},
    ]
    assert found["others"]["mean"] == pytest.approx((10.25 + 0.9) / 2)
    assert found["others"]["n_tasks"] == 3
    assert diverged({"a": a, "b": b}, 0, MSE) is None
    same = np.array([[0.1, 0.1, 0.1], [9.0, math.nan, 9.0]])  # of equals the first stage and task come first
    assert [(task["stage"], task["task"]) for task in diverged({"d": same, "c": same}, 1, MSE)["tasks"]] == [
        *(("c", 1), ("d", 1)),
        *(("c", 0), ("c", 2), ("d", 0), ("d", 2)),
    ]
    many = np.array([np.full(12, 0.05), np.arange(12.0)])
    assert (diverged({"a": many}, 1, MSE)["n"], len(diverged({"a": many}, 1, MSE)["tasks"])) == (11, 10)


def test_tasks_that_diverge_after_more_steps_than_in_training_do_not_make_the_headline(tmp_path):
    """Neither the test figure nor R, nor the choice of weights; the whole table by step is kept."""
    found = run_in(tmp_path, *DIVERGING, "data.stages=2", cl="replay")
    test, R = found["test"], np.array(found["continual"]["R"])
    assert test["steps"] == {"n": 1, "chosen_by": "trained"}
    assert [row["step"] for row in test["by_step"]] == list(range(11))
    assert test["mse"]["mean"] == test["by_step"][1]["mean"]
    assert (test["by_step"][10]["mean"] or math.inf) > 1e3 * test["mse"]["mean"]
    assert R[-1].mean() == pytest.approx(test["mse"]["mean"])
    assert R.max() < 100
    assert found["validation"]["mse"]["mean"] < 100
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert max(line["val/mse"] for line in lines if "val/mse" in line) < 100


def test_a_headline_after_all_steps_names_what_diverged(tmp_path):
    found = run_in(tmp_path, *DIVERGING, "algo.inner_lr=0.4", "trainer.report_steps=last")
    test, before = found["test"], np.load(tmp_path / "test.npz")["scores"][0, 0]
    scores = np.load(tmp_path / "test.npz")["scores"][0, -1]
    assert test["steps"] == {"n": 10, "chosen_by": "last"}
    assert test["diverged"]["n"] == (~(scores <= 10 * before.mean())).sum() > 0
    assert f"{test['diverged']['n']} of 20 test tasks diverged" in metarun.report.summary.describe(found)


@pytest.mark.parametrize(("stages", "updates"), [(1, 40), (2, 20)])
def test_chosen_on_validation(tmp_path, stages, updates):
    """R of all times, validation and test are after the number of steps that is best on the validation tasks at the end."""
    some = () if stages == 1 else (f"data.stages={stages}",)
    how = ("algo.inner_lr=0.01", "algo.test_steps=6", f"trainer.iterations={updates}", "trainer.report_steps=validation", *some)
    found = run_in(tmp_path / "run", *how)
    learner = learner_of(tmp_path / "run", *how)
    stages_of = metarun.use.build_data(learner.config, metarun.use.build_method(learner.config.cl)).stages("cpu")
    on = lambda source, tasks: evaluate(learner.algorithm, source, tasks).mean(1)  # noqa: E731
    validation = np.mean([on(stage.val, 10) for stage in stages_of], 0)
    test = np.mean([on(stage.test, 20) for stage in stages_of], 0)
    best = int(validation.argmin())
    assert found["test"]["steps"] == {"n": best, "chosen_by": "validation"}
    assert best not in (0, 1, 6)  # so that neither a fixed number nor the last one passes
    assert found["validation"]["mse"]["mean"] == pytest.approx(validation[best], rel=1e-4)
    assert found["test"]["mse"]["mean"] == pytest.approx(test[best], rel=1e-4)
    if stages > 1:
        R = np.array(found["continual"]["R"])
        np.testing.assert_allclose(R[-1], [on(stage.test, 20)[best] for stage in stages_of], rtol=1e-4)
        fixed = run_in(tmp_path / "fixed", how[0], how[2], f"algo.test_steps={best}", "trainer.report_steps=last", *some)
        np.testing.assert_allclose(R, fixed["continual"]["R"], rtol=1e-4)  # the rows of earlier times, too


def learner_of(path, *overrides):
    (path / ".hydra").mkdir(exist_ok=True)
    OmegaConf.save(composed("algo=maml", "data=sine", *SMALL, *overrides), path / ".hydra/config.yaml")
    return metarun.load(path)


def test_whoever_uses_the_run_takes_as_many_steps(tmp_path):
    """Predictions, tests made later, and the paired tests of reports."""
    how = ("algo.inner_lr=0.1", "algo.test_steps=6")
    found = run_in(tmp_path, *how)
    learner = learner_of(tmp_path, *how)
    (stage,) = metarun.use.build_data(learner.config, metarun.use.build_method(learner.config.cl)).stages("cpu")
    task = stage.test.sample(metarun.use.torch.arange(1))
    support, query = task.support, task.query
    made = learner.fit_predict(support.x[0], support.y[0], query.x[0])
    expected = learner.algorithm.predictions(task, 1, path=False)[-1, 0].detach().numpy()
    np.testing.assert_allclose(made, expected, rtol=1e-5)
    stored = np.load(tmp_path / "test.npz")["scores"]
    (run,) = collect([tmp_path])
    np.testing.assert_array_equal(run.task_scores, stored[0, 1])
    eval_run(tmp_path, ["trainer.report_steps=last"])
    (later,) = [json.loads(path.read_text())["test"] for path in tmp_path.glob("eval/*/results.json")]
    assert later["steps"] == {"n": 6, "chosen_by": "last"}
    assert later["mse"]["mean"] == pytest.approx(found["test"]["by_step"][6]["mean"], rel=1e-4)

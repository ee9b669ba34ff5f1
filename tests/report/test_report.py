"""What people read of a run, from made-up results."""

from metarun.report.summary import describe


def row(step, mean, ci95=0.01):
    return {"step": step, "mean": mean, "ci95": ci95, "median": mean, "n_nonfinite": 0}


def results(metric="accuracy", steps=True, **changed):
    test = {metric: {"mean": 0.9712, "ci95": 0.0021, "n_tasks": 1000, "n_nonfinite": 0, "median": 0.97}}
    if steps:
        test["by_step"] = [row(i, 0.2 + 0.07712 * i) for i in range(11)]
    return {
        "test": test,
        "continual": None,
        "protocol": {"ways": 5, "shots": 1, "queries": 15, "batch_norm": "running"},
        "train": {"iterations": 1500, "seconds": 410.4, "best_iteration": 1250},
        "environment": {"device": "cpu"},
    } | changed


def test_a_result_in_a_few_lines():
    text = describe(results(steps=False))
    assert "97.12 ± 0.21" in text
    assert "1,000 test tasks, 5-way 1-shot, 15 queries a class, batch norm running; 1,500 updates" in text
    assert "(best on validation: 1,250) in 410 s on cpu" in text


def test_steps_are_rows_and_the_papers_tasks_a_column():
    found = results("mse")
    found["test"]["first_tasks"] = {
        "mse": {**found["test"]["mse"], "n_tasks": 600},
        "by_step": [row(i, 0.5) for i in range(11)],
    }
    lines = describe(found).splitlines()
    assert [line.split()[0] for line in lines[3:9]] == ["0", "1", "2", "3", "5", "10"]
    assert lines[8].split() == ["10", "0.971", "±", "0.010", "(0.971)", "0.500", "±", "0.010", "(0.500)"]
    assert "first 600" in lines[2]


def test_a_long_adaptation_is_shown_by_its_own_steps():
    found = results("mse")
    found["test"]["by_step"] = [row(step, 1 / (1 + step)) for step in (0, 1, 2, 5, 10, 20, 32)]
    rows = [line.split()[:2] for line in describe(found).splitlines()[2:9]]
    assert rows == [
        ["0", "1.000"],
        ["1", "0.500"],
        ["2", "0.333"],
        ["5", "0.167"],
        ["10", "0.091"],
        ["20", "0.048"],
        ["32", "0.030"],
    ]


def test_what_is_not_finite_is_said():
    found = results("mse", steps=False)
    found["test"]["mse"] = {"mean": None, "ci95": None, "n_tasks": 1000, "n_nonfinite": 2, "median": 0.5}
    assert "not finite" in describe(found)
    assert "2 of 1,000 tasks are not finite; median 0.5" in describe(found)


def test_streams_show_their_figures():
    continual = {"stages": ["a", "b"], "acc": 0.8, "aia": 0.85, "bwt": -0.1, "fwt": None, "forgetting": 0.1, "intransigence": None}
    text = describe(results(steps=False, continual=continual))
    assert "over 2 stages" in text
    assert "forgetting 0.1" in text
    assert "fwt" not in text

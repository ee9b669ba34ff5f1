"""What people read of a run, from made-up results."""

import pytest

from metarun.report.summary import describe, figure


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
    assert "1,000 test tasks, 5-way 1-shot, 15 queries per class, batch norm running; 1,500 updates" in text
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


def test_the_whole_text_of_accuracies_by_step():
    found = results(steps=False)
    found["test"]["by_step"] = [row(0, 0.2), row(1, 0.9012, 0.005), row(4, 0.95), row(5, 0.96), row(7, 0.9712, 0.0021)]
    found["train"]["best_iteration"] = None
    found["train"]["n_nonfinite"] = 3
    assert describe(found) == "\n".join(
        [
            "",
            "inner steps accuracy, %, mean ± 95 % interval over tasks",
            "0           20.00 ± 1.00",
            "1           90.12 ± 0.50",
            "5           96.00 ± 1.00",
            "7           97.12 ± 0.21",  # not one of those shown as a rule, but the last
            "3 of 1,500 updates were not finite and were reverted",
            "",
            "1,000 test tasks, 5-way 1-shot, 15 queries per class, batch norm running; 1,500 updates in 410 s on cpu",
        ]
    )


def test_the_whole_text_of_errors_beside_the_papers_tasks():
    found = results("mse")
    found["protocol"] |= {"ways": None, "shots": 10, "queries": 10, "batch_norm": None}
    found["test"]["by_step"] = [row(0, 3.0, 0.2), row(10, 0.125, None), row(12, 0.1)]
    first = [row(0, 2.5, 0.3), row(10, None, None), row(12, 0.25)]
    first[1]["median"] = 0.5
    found["test"]["first_tasks"] = {"mse": {**found["test"]["mse"], "n_tasks": 600}, "by_step": first}
    assert describe(found) == "\n".join(
        [
            "",
            "inner steps mean squared error, mean ± 95 % interval over tasks (median)",
            "            1,000 test tasks          first 600                 ",
            "0           3.000 ± 0.200 (3.000)     2.500 ± 0.300 (2.500)",
            "10          0.125 (0.125)             not finite (0.500)",
            "12          0.100 ± 0.010 (0.100)     0.250 ± 0.010 (0.250)",
            "",
            "1,000 test tasks, 10-shot, 10 queries; 1,500 updates (best on validation: 1,250) in 410 s on cpu",
        ]
    )


def test_the_whole_text_of_a_stream_of_single_examples():
    continual = {"stages": ["a", "b", "c"], "acc": 0.81234, "aia": None, "bwt": -0.1, "fwt": None, "forgetting": 0.1}
    continual |= {"intransigence": 0.05, "online": {"accuracy": 0.5, "rounds": 6000, "switches": 122, "boundaries": [7, 9]}}
    found = results(steps=False, continual=continual)
    found["protocol"] |= {"ways": 10, "shots": None}
    expected = [
        "",
        "accuracy, %, mean ± 95 % interval over examples",
        "97.12 ± 0.21              1,000 test examples",
        "",
        "over 3 stages (higher is better, except forgetting and intransigence): acc 0.8123, bwt -0.1, forgetting 0.1,"
        " intransigence 0.05",
        "online accuracy 0.5 over 6,000 rounds with 122 stage switches, 2 boundaries detected",
        "",
        "1,000 test examples, 10 classes, batch norm running; 1,500 updates (best on validation: 1,250) in 410 s on cpu",
    ]
    assert describe(found) == "\n".join(expected)
    continual["online"]["boundaries"] = []
    assert describe(found).splitlines()[5] == "online accuracy 0.5 over 6,000 rounds with 122 stage switches"


def test_an_error_without_steps_has_its_median():
    found = results("mse", steps=False)
    assert describe(found).splitlines()[2] == "0.971 ± 0.002 (0.970)     1,000 test tasks"
    del found["test"]["mse"]["median"]  # as of the first version
    assert describe(found).splitlines()[2] == "0.971 ± 0.002             1,000 test tasks"


def test_columns_of_different_steps_are_a_mistake():
    found = results("mse")
    found["test"]["first_tasks"] = {"mse": found["test"]["mse"], "by_step": [row(0, 0.5)]}
    with pytest.raises(ValueError, match="shorter"):
        describe(found)


def test_a_figure_in_a_few_words():
    assert figure(results()) == "accuracy 97.12 ± 0.21 %"
    assert figure(results("mse")) == "mse 0.971 ± 0.002"
    lone = results()
    lone["test"]["accuracy"]["ci95"] = None
    assert figure(lone) == "accuracy 97.12 %"


@pytest.mark.parametrize(("mean", "told"), [(0.25, "0.25"), (None, "not finite")])
def test_an_online_score_that_is_not_finite_is_said(mean, told):
    stream = dict.fromkeys(("acc", "aia", "bwt", "fwt", "forgetting", "intransigence"))
    online = {"mse": mean, "rounds": 1000, "switches": 3, "boundaries": []}
    text = describe(results("mse", steps=False, continual=stream | {"stages": ["a"], "online": online}))
    assert f"online mse {told} over 1,000 rounds with 3 stage switches\n" in text

"""Metrics: in words, compared, and read from results.json."""

import math

import pytest

from metarun.config import ConfigError, RangeError
from metarun.metric import ACCURACY, MSE, Metric, recorded


def test_a_part_of_the_results_in_words():
    assert ACCURACY.describe({"mean": 0.97104, "ci95": 0.00214}) == "accuracy 97.10 ± 0.21 %"
    assert ACCURACY.describe({"mean": 0.5, "ci95": None}) == "accuracy 50.00 %"
    assert MSE.describe({"mean": 0.15, "ci95": 0.01}) == "mse 0.150 ± 0.010"
    assert MSE.describe({"mean": None, "n_nonfinite": 2, "n_tasks": 9}) == "mse not finite on 2 of 9 tasks"
    assert MSE.text({"mean": None, "ci95": None}) == "not finite"


def test_better_is_higher_or_lower():
    assert (ACCURACY.sign, MSE.sign) == (1.0, -1.0)
    assert (ACCURACY.gain(3.0, over=1.0), MSE.gain(3.0, over=1.0)) == (2.0, -2.0)
    reward = Metric("reward", "return", higher_is_better=True)
    assert (ACCURACY.error(0.75), MSE.error(2.0), reward.error(2.0)) == (0.25, 2.0, -2.0)


def test_a_metric_is_recorded_with_the_results():
    own = Metric("mae", "mean absolute error, m", unit="m", digits=1, heavy_tailed=True)
    assert recorded({"metric": own.record(), "test": {"mae": {}}}) == own
    assert recorded({"metric": own.record() | {"later": 1}}) == own  # written by a later version
    # Earlier versions recorded no metric, the first ones no kind of task either.
    assert recorded({"task": {"kind": "regression"}, "test": None}) == MSE
    assert recorded({"task": {"kind": "classification"}, "status": "diverged"}) == ACCURACY
    assert recorded({"test": {"steps": {}, "accuracy": {}}}) == ACCURACY
    assert recorded({"test": None, "validation": {"mse": {}}}) == MSE


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ({"test": {"mae": {}, "steps": {}}}, "results.json: expected a score named accuracy or mse, found mae, steps"),
        ({"test": None}, "results.json: expected a score named accuracy or mse, found none"),
        ({"metric": {"label": "x"}}, "results.json: metric: "),
        ({"metric": ["mse"]}, "results.json: metric: "),
        (
            {"metric": {"name": "m", "label": "m", "digits": 10**9}},
            "results.json: metric: metric.digits=1000000000: expected 0 to 12",
        ),
        ({"metric": {"name": "m", "label": "m", "scale": "1"}}, "results.json: metric: "),
    ],
)
def test_results_without_a_metric_are_one_clear_line(results, message):
    with pytest.raises(ConfigError) as caught:
        recorded(results)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values", [{"name": ""}, {"name": "a b"}, {"scale": 0.0}, {"scale": math.nan}, {"digits": -1}, {"digits": 1.5}]
)
def test_impossible_metrics_are_refused(values):
    with pytest.raises(RangeError):
        Metric(**{"name": "m", "label": "m"} | values)

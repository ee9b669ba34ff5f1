"""Figures of merit against values worked by hand."""

import numpy as np
import pytest

from metarun.cl.metrics import stream_metrics

ACCURACY = np.array(
    [
        [0.2, 0.2, 0.2],
        [0.9, 0.3, 0.2],
        [0.7, 0.8, 0.4],
        [0.5, 0.6, 0.9],
    ]
)


def test_accuracies_worked_by_hand():
    found = stream_metrics(ACCURACY, higher_is_better=True, reference=np.array([0.9, 0.9, 0.95]))
    assert found["acc"] == pytest.approx((0.5 + 0.6 + 0.9) / 3)
    assert found["aia"] == pytest.approx((0.9 + (0.7 + 0.8) / 2 + (0.5 + 0.6 + 0.9) / 3) / 3)
    assert found["bwt"] == pytest.approx(((0.5 - 0.9) + (0.6 - 0.8)) / 2)
    assert found["fwt"] == pytest.approx(((0.3 - 0.2) + (0.4 - 0.2)) / 2)
    assert found["forgetting"] == pytest.approx(((0.9 - 0.5) + (0.8 - 0.6)) / 2)
    assert found["intransigence"] == pytest.approx(((0.9 - 0.9) + (0.9 - 0.8) + (0.95 - 0.9)) / 3)


def test_losses_turn_the_sign():
    found = stream_metrics(1 - ACCURACY, higher_is_better=False)
    expected = stream_metrics(ACCURACY, higher_is_better=True)
    for key in ("bwt", "fwt", "forgetting"):
        assert found[key] == pytest.approx(expected[key])
    assert found["acc"] == pytest.approx(expected["acc"] - 1)
    assert found["intransigence"] is None


def test_forgetting_looks_at_the_best_since_learning():
    R = np.array([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.8, 0.6, 0.0], [0.6, 0.6, 0.7]])
    assert stream_metrics(R, higher_is_better=True)["forgetting"] == pytest.approx((0.8 - 0.6) / 2)


def test_one_stage_has_no_transfer():
    found = stream_metrics(np.array([[0.1], [0.8]]), higher_is_better=True)
    assert found["acc"] == 0.8
    assert found["bwt"] is found["fwt"] is found["forgetting"] is None


def test_a_matrix_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match="R has 3 rows, expected one more than its 3 columns"):
        stream_metrics(ACCURACY[:3], higher_is_better=True)

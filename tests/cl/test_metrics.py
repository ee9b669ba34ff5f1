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
    with pytest.raises(ValueError, match="expected R to have 4 rows for its 3 columns, found 3"):
        stream_metrics(ACCURACY[:3], higher_is_better=True)


def test_two_stages_are_enough_for_every_figure():
    R = np.array([[0.25, 0.5], [1.0, 0.75], [0.5, 0.875]])
    found = stream_metrics(R, higher_is_better=True, reference=np.array([1.0, 1.0]))
    assert found == {
        "acc": (0.5 + 0.875) / 2,
        "aia": (1.0 + 0.6875) / 2,
        "bwt": 0.5 - 1.0,
        "fwt": 0.75 - 0.5,
        "forgetting": 1.0 - 0.5,
        "intransigence": (0.0 + 0.125) / 2,
    }


@pytest.mark.parametrize("n", [2, 3])
def test_a_stream_without_boundaries_has_its_last_scores_alone(n):
    R = np.stack([np.zeros(n), np.arange(1.0, n + 1)])
    empty = dict.fromkeys(("aia", "bwt", "fwt", "forgetting", "intransigence"))
    assert stream_metrics(R, higher_is_better=True) == {"acc": (n + 1) / 2, **empty}
    assert stream_metrics(R, higher_is_better=False)["acc"] == -(n + 1) / 2


def test_one_stage_has_an_accuracy_over_time():
    assert stream_metrics(np.array([[0.1], [0.8]]), higher_is_better=True)["aia"] == 0.8


def test_scores_are_averaged_in_double_precision():
    R = np.array([[0, 0], [0, 0], [2**24, 1]], np.float32)  # whose sum a single-precision number cannot hold
    assert stream_metrics(R, higher_is_better=True)["acc"] == 2**23 + 0.5


def test_the_shape_that_was_found_is_told():
    with pytest.raises(ValueError, match=r"^expected R to have 3 rows for its 2 columns, found 4$"):
        stream_metrics(ACCURACY[:, :2], higher_is_better=True)

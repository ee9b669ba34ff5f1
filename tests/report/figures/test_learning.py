"""Scores of one run: the data, labels and scales of their curves."""

import json

import numpy as np
import pytest
from matplotlib.colors import to_hex
from panels import band, bars, labels, lines, row

from metarun.metric import ACCURACY, MSE
from metarun.report import figures
from metarun.report.figures import canvas


def metrics_file(tmp_path, *rows):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in rows))
    return path


def test_a_learning_curve_has_the_loss_and_the_validation_score(tmp_path):
    rows = [
        {"step": 100, "train/loss": 2.0},
        {"step": 200, "train/loss": 0.1},
        {"step": 200, "val/mse": 0.5, "ci95": 0.25},
        {"step": 300, "val/mse": 0.3, "ci95": None},
        {"step": 300, "val/mse": None},
        {"step": 300, "train/loss": None},
    ]
    left, right = figures.learning_curve(metrics_file(tmp_path, *rows), MSE).axes
    assert list(lines(left).values()) == [[[100, 2.0], [200, 0.1]]]
    assert list(lines(right).values()) == [[[200, 0.5], [300, 0.3]]]
    assert band(right) == pytest.approx((0.25, 0.75))
    assert labels(left) == ("outer updates", "training loss")
    assert labels(right) == ("outer updates", "validation mse, 95 % interval")
    assert (left.get_yscale(), right.get_yscale()) == ("log", "linear")  # the loss fell to a twentieth


@pytest.mark.parametrize(("losses", "scale"), [((1.0, 0.1), "linear"), ((1.0, 0.099), "log"), ((1.0, 0.0), "linear")])
def test_a_loss_that_falls_below_a_tenth_is_logarithmic(tmp_path, losses, scale):
    path = metrics_file(tmp_path, *({"step": i, "train/loss": loss} for i, loss in enumerate(losses)))
    left, right = figures.learning_curve(path, ACCURACY).axes
    assert left.get_yscale() == scale
    assert not right.get_lines()


def test_a_learning_curve_has_two_panels_in_two_colours(tmp_path):
    path = metrics_file(tmp_path, {"step": 1, "train/loss": 2.0}, {"step": 1, "val/mse": 0.5, "ci95": 0.25})
    figure = figures.learning_curve(path, MSE)
    np.testing.assert_allclose(figure.get_size_inches(), (9, 3.2))
    left, right = figure.axes
    assert [ax.get_lines()[0].get_color() for ax in (left, right)] == [canvas.COLOURS[2], canvas.COLOURS[3]]
    assert to_hex(right.collections[0].get_facecolor()[0]) == canvas.COLOURS[3]


def test_an_adaptation_curve_has_the_finite_steps_with_their_intervals():
    (ax,) = figures.adaptation_curve([row(0, 1.0), row(1, None, None), row(2, 0.5, None), row(5, 0.25, 0.05)], MSE).axes
    ((x, y, ends),) = bars(ax)[""]
    assert (x, y) == ([0, 2, 5], [1.0, 0.5, 0.25])
    np.testing.assert_allclose(ends, [[[0, 0.99], [0, 1.01]], [[2, 0.5], [2, 0.5]], [[5, 0.2], [5, 0.3]]])
    assert labels(ax) == ("inner steps", "test mse, 95 % interval")


def test_presentations_with_chance():
    rows = [{"presentation": i, "mean": 0.2 * i, "ci95": 0.01 * i} for i in (1, 2, 3)]
    (ax,) = figures.presentations(rows, ways=5).axes
    ((x, y, ends),) = bars(ax)[""]
    np.testing.assert_allclose(x, [1, 2, 3])
    np.testing.assert_allclose(y, [0.2, 0.4, 0.6])
    np.testing.assert_allclose(np.array(ends)[:, :, 1], [[0.19, 0.21], [0.38, 0.42], [0.57, 0.63]])
    chance = [line for line in ax.get_lines() if line.get_linestyle() == ":"]
    assert [list(line.get_ydata()) for line in chance] == [[0.2, 0.2]]
    assert [(text.get_text(), text.get_position()) for text in ax.texts] == [("chance", (3.0, 0.2))]
    assert labels(ax) == ("presentation of the class", "test accuracy, 95 % interval")
    assert ax.get_ylim() == (0, 1)


def test_presentations_of_one_task_have_no_interval():
    (ax,) = figures.presentations([{"presentation": 1, "mean": 0.5, "ci95": None}], ways=5).axes
    ((_, y, ends),) = bars(ax)[""]
    assert y == [0.5]
    assert not np.isfinite([y for segment in ends for _, y in segment]).any()


def test_scores_by_length():
    rows = [{"length": 1, "mean": 0.9, "ci95": None}, {"length": 10, "mean": 0.5, "ci95": 0.1}]
    (ax,) = figures.by_length(rows, ACCURACY).axes
    ((x, y, ends),) = bars(ax)[""]
    assert (x, y) == ([1, 10], [0.9, 0.5])
    np.testing.assert_allclose(np.array(ends)[:, :, 1], [[0.9, 0.9], [0.4, 0.6]])
    assert labels(ax) == ("classes or functions so far", "test accuracy on them, 95 % interval")

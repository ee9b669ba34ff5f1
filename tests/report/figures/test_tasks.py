"""Tasks: fits, mosaics and task vectors."""

import numpy as np
import pytest
from matplotlib.colors import to_hex
from panels import X, labels, lines

from metarun.report import figures
from metarun.report.figures import canvas


def test_task_vectors_are_coloured_by_each_parameter():
    components = np.random.default_rng(0).normal(size=(9, 4))
    parameters = {"amplitude": np.arange(9.0), "phase": np.arange(9.0)[::-1]}
    first, second, *bars_of = figures.task_vectors(components, parameters).axes
    for ax, values in zip((first, second), parameters.values(), strict=True):
        (points,) = ax.collections
        np.testing.assert_array_equal(points.get_offsets(), components[:, :2])
        np.testing.assert_array_equal(points.get_array(), values)
        assert ax.get_xlabel() == "first component"
    assert [bar.get_ylabel() for bar in bars_of] == ["amplitude", "phase"]
    assert (first.get_ylabel(), second.get_ylabel()) == ("second component", "")
    (plain,) = figures.task_vectors(components, {}).axes
    np.testing.assert_array_equal(plain.collections[0].get_offsets(), components[:, :2])
    assert plain.collections[0].get_array() is None


def test_task_vectors_have_a_bar_for_each_parameter():
    figure = figures.task_vectors(np.zeros((3, 2)), {"a": np.arange(3.0), "b": np.arange(9.0, 12.0)})
    assert [bar.get_ylim() for bar in figure.axes[2:]] == [(0, 2), (9, 11)]
    (plain,) = figures.task_vectors(np.zeros((3, 2)), {}).axes
    assert to_hex(plain.collections[0].get_facecolor()[0]) == canvas.COLOURS[2]


def test_fits_have_truth_support_and_predictions():
    x = np.linspace(-1, 1, 20)
    several = figures.Fit(5, x[:5], 2 * x[:5], x, x**2, {0: x * 0, 1: x, 10: 3 * x})
    one = figures.Fit(10, x[:2], x[:2], x, x * 0 + 4, {10: x})
    left, right = figures.fits([several, one]).axes
    found = lines(left)
    assert list(found) == ["truth", "0 steps", "1 step", "10 steps", "support"]
    for label, y in {"truth": x**2, "0 steps": x * 0, "1 step": x, "10 steps": 3 * x}.items():
        np.testing.assert_allclose(found[label], np.column_stack([x, y]))
    np.testing.assert_allclose(found["support"], np.column_stack([x[:5], 2 * x[:5]]))
    assert list(lines(right)) == ["truth", "prediction", "support"]
    colours = [line.get_color() for line in left.get_lines()]
    assert colours == [canvas.INK, *canvas.COLOURS[:3], canvas.INK]
    assert right.get_lines()[1].get_color() == canvas.COLOURS[3]
    assert [ax.get_title() for ax in (left, right)] == ["5 shots", "10 shots"]
    assert (labels(left), labels(right)) == (("x", "y"), ("x", ""))
    low, high = (x**2).min(), (x**2).max()
    assert left.get_ylim() == pytest.approx((low - 0.4 * (high - low), high + 0.4 * (high - low)))
    assert right.get_ylim() == pytest.approx((4 - 0.4e-3, 4 + 0.4e-3))  # of a constant curve
    assert left.get_legend() is None
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["truth", "prediction", "support"]


def test_fits_have_their_legend_beside_the_last_panel():
    two = figures.Fit(5, X, X, X, X, {0: X, 1: 2 * X})
    first, second, third = figures.fits([two] * 3).axes
    assert [ax.get_legend() is None for ax in (first, second, third)] == [True, True, False]
    truth, before, after, support = first.get_lines()
    assert (truth.get_linestyle(), support.get_linestyle(), support.get_marker()) == (":", "None", "o")
    assert [line.get_color() for line in (before, after)] == list(canvas.COLOURS[:2])


def test_pictures_of_tasks():
    mosaic = np.random.default_rng(0).random((4, 6, 1))
    support, query = np.array([[0.0, 1.0], [1.0, 2.0]]), np.array([[2.0, 3.0]])
    figure = figures.tasks({"first": mosaic, "second": (support, query)}, "training")
    first, second = figure.axes
    np.testing.assert_array_equal(first.get_images()[0].get_array(), mosaic[..., 0])
    assert first.get_images()[0].norm.vmin == 0
    assert first.get_images()[0].norm.vmax == 1
    assert not first.axison
    assert lines(second) == {"support": support.tolist(), "query": query.tolist()}
    assert [line.get_marker() for line in second.get_lines()] == ["o", "x"]
    assert [ax.get_title() for ax in (first, second)] == ["first", "second"]
    assert figure.get_suptitle() == "training"
    assert len(figures.tasks(dict.fromkeys("abcd", mosaic), "").axes) == 6  # three in a row


def test_support_and_query_have_colours_of_their_own_and_images_are_grey():
    figure = figures.tasks({"a": (np.zeros((1, 2)), np.ones((1, 2))), "b": np.zeros((2, 2))}, "x")
    assert [line.get_color() for line in figure.axes[0].get_lines()] == [canvas.COLOURS[3], canvas.COLOURS[2]]
    image = figure.axes[1].get_images()[0]
    assert (image.get_cmap().name, image.get_interpolation()) == ("gray", "nearest")

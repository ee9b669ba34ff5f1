"""Comparisons: measured beside published, and curves of methods."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from panels import X, band, bars, label_of, labels, lines

from metarun.metric import ACCURACY, MSE
from metarun.report import figures
from metarun.report.figures import canvas


def test_measured_and_published_figures_side_by_side():
    rows = {"maml 5-way": (98.5, 1.24, (98.7, 0.4)), "maml 20-way": (90.0, None, (95.8, None)), "own": (50.0, 2.0, None)}
    (ax,) = figures.beside_published(rows, ACCURACY).axes
    found = bars(ax)
    assert set(found) == {"published", "measured", ""}
    np.testing.assert_allclose(found["measured"][0][0], [98.5])
    np.testing.assert_allclose(found["measured"][0][1], [-0.15])
    np.testing.assert_allclose(found["measured"][0][2], [[[97.26, -0.15], [99.74, -0.15]]])
    np.testing.assert_allclose(found["published"][0][0], [98.7])
    np.testing.assert_allclose(found["published"][0][1], [0.15])
    np.testing.assert_allclose(found["published"][0][2], [[[98.3, 0.15], [99.1, 0.15]]])
    rest = [(x[0], y[0]) for x, y, _ in found[""]]
    assert rest == [(95.8, 1.15), (90.0, 0.85), (50.0, 1.85)]
    colours = {label_of(container): to_hex(container[0].get_color()) for container in ax.containers}
    assert (colours["published"], colours["measured"]) == (canvas.COLOURS[2], canvas.COLOURS[3])
    of_rest = [to_hex(c[0].get_color()) for c in ax.containers if not label_of(c)]
    assert of_rest == [canvas.COLOURS[2], canvas.COLOURS[3], canvas.COLOURS[3]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["published", "measured"]
    assert [text.get_text() for text in ax.get_yticklabels()] == list(rows)
    assert (ax.get_ylim(), ax.get_xlabel()) == ((2.5, -0.5), "accuracy, %, 95 % interval")


def test_the_legend_names_what_is_published_later_than_the_first_row():
    rows = {"own": (50.0, None, None), "curves": (0.5, None, (None, None)), "maml": (90.0, None, (95.8, None))}
    (ax,) = figures.beside_published(rows, ACCURACY).axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["measured", "published"]


def test_measured_and_published_have_marks_of_their_own():
    (ax,) = figures.beside_published({"maml": (98.5, 1.0, (98.7, 0.4))}, ACCURACY).axes
    assert {label_of(container): container[0].get_marker() for container in ax.containers} == {"published": "s", "measured": "o"}


def test_curves_by_panel_and_name():
    x, up, down, ci = np.array([1.0, 2.0]), np.array([50.0, 60.0]), np.array([40.0, 30.0]), np.array([5.0, 0.0])
    panels = {"updates": [("maml", x, up, ci), ("anil", x, down, ci)], "seconds": [("maml", 10 * x, up, ci)], "tasks": []}
    figure = figures.curves(panels, ACCURACY)
    first, second, third, rest = figure.axes
    assert lines(first) == {"maml": [[1, 50], [2, 60]], "anil": [[1, 40], [2, 30]]}
    assert lines(second) == {"maml": [[10, 50], [20, 60]]}
    assert not third.get_lines()
    assert not rest.axison
    assert third.axison
    assert [labels(ax) for ax in (first, second, third)] == [(axis, "accuracy, %") for axis in panels]
    assert band(first) == pytest.approx((45.0, 60.0))
    assert band(first, 1) == pytest.approx((30.0, 45.0))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["maml", "anil"]
    assert first.get_lines()[0].get_color() == second.get_lines()[0].get_color() != first.get_lines()[1].get_color()
    assert first.get_yscale() == "linear"
    assert first.get_lines()[0].get_marker() == "o"


def test_the_legend_below_the_panels_names_a_curve_that_is_in_the_second_alone():
    x = np.array([1.0, 2.0])
    figure = figures.curves({"updates": [("m", x, x, x)], "tasks": [("m", x, x, x), ("n", x, x, x)]}, ACCURACY)
    FigureCanvasAgg(figure).draw()
    (legend,) = figure.legends
    named = {text.get_text(): handle.get_color() for text, handle in zip(legend.get_texts(), legend.get_lines(), strict=True)}
    assert named == {line.get_label(): line.get_color() for line in figure.axes[1].get_lines()}
    assert legend.get_window_extent().y1 < min(ax.get_tightbbox().y0 for ax in figure.axes)


def test_curves_of_errors_are_logarithmic_if_they_can_be():
    x, ci = np.arange(12.0), np.zeros(12)
    good, zero = figures.curves({"a": [("m", x, x + 1, ci)], "b": [("m", x, x, ci)]}, MSE).axes
    assert (good.get_yscale(), zero.get_yscale()) == ("log", "linear")
    assert good.get_lines()[0].get_marker() == "None"  # twelve points are a line


def test_long_names_are_shortened_in_the_legend_alone():
    name, x = "maml " + "key=value " * 20, np.array([1.0, 2.0])
    figure = figures.curves({"updates": [(name, x, x, x)]}, ACCURACY)
    (text,) = figure.legends[0].get_texts()
    assert len(text.get_text()) <= 90
    assert text.get_text().startswith("maml key=value")
    assert text.get_text().endswith(" …")


def test_a_methods_band_has_the_colour_of_its_curve():
    first, second = figures.curves({name: [("m", X, X, X), ("n", X, X, X)] for name in "ab"}, ACCURACY).axes
    for ax in (first, second):
        for line, filled in zip(ax.get_lines(), ax.collections, strict=True):
            assert to_hex(filled.get_facecolor()[0]) == to_hex(line.get_color())
            assert filled.get_alpha() == 0.2

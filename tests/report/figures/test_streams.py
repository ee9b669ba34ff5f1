"""Continual learning: matrices R, curves of stages, online scores."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from panels import TIMES, labels

from metarun.metric import ACCURACY, MSE
from metarun.report import figures
from metarun.report.figures import canvas

LONG = "maml\npaper=maml_omniglot_5way_1shot_transductive\nstages=4\nbudget=short\noperations=3e+11\ntest_tasks=100\nshots=5"
NONE = [[None, 0.2], [0.9, None], [0.5, 0.8]]


def test_a_stage_matrix_shows_its_numbers():
    ax, bar = figures.stage_matrix([[0.1, 0.2], [0.9, None], [0.5, 0.8]], ["a", "b"], ACCURACY).axes
    (image,) = ax.get_images()
    np.testing.assert_array_equal(image.get_array().filled(np.nan), [[0.1, 0.2], [0.9, np.nan], [0.5, 0.8]])
    assert image.get_cmap().name == "viridis"
    assert [(text.get_position(), text.get_text()) for text in ax.texts] == [
        ((0, 0), "0.1"),
        ((1, 0), "0.2"),
        ((0, 1), "0.9"),
        ((1, 1), "nan"),
        ((0, 2), "0.5"),
        ((1, 2), "0.8"),
    ]
    assert [text.get_color() for text in ax.texts][:3] == ["white", "white", "black"]  # dark fields of viridis are low
    assert [text.get_text() for text in ax.get_xticklabels()] == ["a", "b"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["untrained", "after a", "after b"]
    assert (ax.get_xlabel(), bar.get_ylabel()) == ("tested on", "accuracy")


def test_of_an_error_the_dark_fields_are_high():
    figure = figures.stage_matrix([[1.0, 2.0], [9.0, 5.1]], ["a", "b"], MSE)
    ax = figure.axes[0]
    assert ax.get_images()[0].get_cmap().name == "viridis_r"
    assert [text.get_color() for text in ax.texts] == ["black", "black", "white", "white"]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["untrained", "after the stream"]
    np.testing.assert_allclose(figure.get_size_inches(), [1.8 + 2 * 0.9, 1.5 + 2 * 0.6])


def test_a_stage_matrix_of_one_value_draws():
    ax = figures.stage_matrix([[0.5], [0.5]], ["a"], ACCURACY).axes[0]
    assert [text.get_text() for text in ax.texts] == ["0.5", "0.5"]


def test_matrices_stand_in_the_row_and_column_of_their_names():
    none, ewc, other = TIMES, [[0.3, 0.4], [0.8, 0.1], [0.7, 0.6]], [[4.0, 5.0], [1.0, 2.0], [0.5, 0.25]]
    found = {"omniglot": {"none": none, "ewc": ewc}, "sine\nstages=2": {"ewc": other}}
    figure = figures.stage_matrices(found, {"omniglot": ACCURACY, "sine\nstages=2": MSE})
    (a, b, c, d), bars_of = figure.axes[:4], figure.axes[4:]
    for ax, R in ((a, none), (b, ewc), (d, other)):
        (image,) = ax.get_images()
        np.testing.assert_array_equal(image.get_array(), R)
    assert not c.get_images()
    assert not any(spine.get_visible() for spine in c.spines.values())
    assert [ax.get_title() for ax in (a, b, c, d)] == ["none", "ewc", "", ""]
    assert [ax.get_ylabel() for ax in (a, b, c, d)] == ["omniglot", "", "sine\nstages=2", ""]
    assert [bar.get_ylabel() for bar in bars_of] == ["accuracy", "mse"]
    scales = [ax.get_images()[0].norm for ax in (a, b, d)]
    assert [(scale.vmin, scale.vmax) for scale in scales] == [(0.1, 0.9), (0.1, 0.9), (0.25, 5.0)]  # one scale for a row
    assert [isinstance(scale, LogNorm) for scale in scales] == [False, False, True]
    assert [ax.get_images()[0].get_cmap().name for ax in (a, b, d)] == ["viridis", "viridis", "viridis_r"]
    assert all(not list(ax.get_xticks()) and not list(ax.get_yticks()) for ax in (a, b, c, d))


def test_an_error_of_zero_has_a_place_on_the_logarithmic_scale():
    figure = figures.stage_matrices({"sine": {"none": [[1.0], [0.0]]}}, {"sine": MSE})
    assert figure.axes[0].get_images()[0].norm.vmin == 1e-6


@pytest.mark.parametrize("columns", [["ewc"], ["online_ewc+replay"], ["none", "ewc"], [f"method{i}" for i in range(9)]])
@pytest.mark.parametrize("title", ["maml", "maml\ntest_tasks=200", LONG])
def test_matrices_keep_their_size_beside_any_title(tmp_path, title, columns):
    found = {title: dict.fromkeys(columns, TIMES), "x": dict.fromkeys(columns, TIMES)}
    figure = figures.stage_matrices(found, {title: MSE, "x": ACCURACY})
    figures.save(figure, tmp_path / "R.png")  # a warning of matplotlib's is an error here
    width, height = figure.get_size_inches()
    for ax in figure.axes[: len(columns) * 2]:
        box = ax.get_position()
        assert 0.8 < box.width * width < 1.7
        assert 0.8 < box.height * height < 1.9
        for text in (ax.yaxis.label, ax.title):
            extent = text.get_window_extent(FigureCanvasAgg(figure).get_renderer())
            assert not text.get_text() or (extent.x0 >= 0 and extent.y1 <= figure.bbox.y1), text


def test_stage_curves_are_the_columns_of_the_matrix():
    (ax,) = figures.stage_curves(TIMES, ["a", "b"], ACCURACY).axes
    found = [(line.get_label(), list(line.get_ydata())) for line in ax.get_lines()]
    assert [label for label, _ in found if label[0] != "_"] == ["a", "b", "mean"]
    by_label = dict(found)
    assert by_label["a"] == [0.1, 0.9, 0.5]
    assert by_label["b"] == [0.2, 0.3, 0.8]
    np.testing.assert_allclose(by_label["mean"], [0.15, 0.6, 0.65])
    learned = [(list(line.get_xdata()), list(line.get_ydata())) for line in ax.get_lines() if line.get_markersize() == 7]
    assert learned == [([1], [0.9]), ([2], [0.8])]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["untrained", "a", "b"]
    assert labels(ax) == ("trained up to", "test accuracy")


def test_online_scores_over_the_stages_they_came_from():
    (ax,) = figures.online([1.0, 2.0, 3.0, 4.0, 5.0], [0, 0, 1, 1, 0], ["a", "b"], MSE).axes
    (line,) = ax.get_lines()
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([0, 1, 2, 3, 4], [1, 2, 3, 4, 5])
    spans = [(patch.get_x(), patch.get_width(), patch.get_label()) for patch in ax.patches]
    assert [span[:2] for span in spans] == [(0, 2), (2, 2), (4, 1)]
    assert [label for *_, label in spans if label and label[0] != "_"] == ["a", "b"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert ax.patches[0].get_facecolor() == ax.patches[2].get_facecolor() != ax.patches[1].get_facecolor()
    assert (labels(ax), ax.get_yscale()) == (("round", "online mse"), "log")


def test_long_online_scores_are_means_of_rounds():
    scores = np.arange(600.0)
    (ax,) = figures.online(scores, [0] * 600, ["a"], ACCURACY).axes
    (line,) = ax.get_lines()
    np.testing.assert_allclose(line.get_xdata(), np.arange(2, 600))
    np.testing.assert_allclose(line.get_ydata(), np.arange(1, 599))  # each the mean of its round and the two before
    assert (ax.get_ylabel(), ax.get_yscale()) == ("online accuracy, mean of 3 rounds", "linear")


def test_the_numbers_of_a_matrix_stand_in_its_fields_and_can_be_read():
    ax, bar = figures.stage_matrix([[10.0, 11.0], [12.0, 10.5], [10.9, 11.1]], ["a", "b"], ACCURACY).axes
    assert [text.get_color() for text in ax.texts] == ["white", "black", "black", "white", "white", "black"]
    assert {(text.get_ha(), text.get_va()) for text in ax.texts} == {("center", "center")}
    assert bar.get_ylim() == (10.0, 12.0)
    assert ax.get_aspect() == "auto"
    assert not any(line.get_visible() for line in ax.get_xgridlines())


def test_a_missing_score_leaves_its_field_empty_and_its_mean_undrawn():
    figure = figures.stage_matrices({"x": {"none": NONE}}, {"x": ACCURACY})
    np.testing.assert_array_equal(figure.axes[0].get_images()[0].get_array().filled(np.nan), np.array(NONE, np.float64))
    (ax,) = figures.stage_curves(NONE, ["a", "b"], ACCURACY).axes
    mean = next(line for line in ax.get_lines() if line.get_label() == "mean")
    np.testing.assert_array_equal(mean.get_ydata(), [np.nan, np.nan, 0.65])


def test_the_scales_of_a_row_are_those_of_its_bar():
    R = {"omniglot": {"none": TIMES, "ewc": [[0.3, 0.4], [0.95, 0.05], [0.7, 0.6]]}, "sine": {"none": [[4.0], [0.5]]}}
    figure = figures.stage_matrices(R, {"omniglot": ACCURACY, "sine": MSE})
    np.testing.assert_allclose([bar.get_ylim() for bar in figure.axes[-2:]], [(0.05, 0.95), (0.5, 4.0)])
    assert [ax.get_images()[0].norm.vmax for ax in (figure.axes[0], figure.axes[1])] == [0.95, 0.95]
    assert not any(line.get_visible() for ax in figure.axes[:2] for line in ax.get_xgridlines())
    titles = figure.axes[0].yaxis.label
    assert (titles.get_rotation(), titles.get_ha(), titles.get_va()) == (0, "right", "center")


def test_errors_of_one_row_have_the_same_colours_in_every_panel():
    figure = figures.stage_matrices({"sine": {"none": [[2.0], [1.0]], "ewc": [[8.0], [4.0]]}}, {"sine": MSE})
    norms = [ax.get_images()[0].norm for ax in figure.axes[:2]]
    assert [(norm.vmin, norm.vmax) for norm in norms] == [(1.0, 8.0), (1.0, 8.0)]


def test_stages_have_colours_of_their_own_and_dots_where_they_were_learned():
    (ax,) = figures.stage_curves(TIMES, ["a", "b"], ACCURACY).axes
    a, learned_a, b, learned_b, mean = ax.get_lines()
    assert (a.get_color(), b.get_color()) == (learned_a.get_color(), learned_b.get_color())
    assert a.get_color() != b.get_color()
    assert (learned_a.get_marker(), a.get_marker(), mean.get_marker()) == ("o", "o", "None")
    assert (mean.get_color(), mean.get_linestyle()) == (canvas.INK, ":")


def test_two_rounds_are_averaged_from_four_hundred_on():
    (ax,) = figures.online(np.arange(400.0), [0] * 400, ["a"], ACCURACY).axes
    assert ax.get_ylabel() == "online accuracy, mean of 2 rounds"
    assert ax.get_lines()[0].get_color() == canvas.INK
    assert ax.patches[0].get_alpha() == 0.25
    (ax,) = figures.online(np.arange(399.0), [0] * 399, ["a"], ACCURACY).axes
    assert ax.get_ylabel() == "online accuracy"

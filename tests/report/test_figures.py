"""What figures draw: the data of their lines and images, their labels and scales."""

import json

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, to_hex
from matplotlib.container import ErrorbarContainer

from metarun.metric import ACCURACY, MSE
from metarun.report import figures

TIMES = [[0.1, 0.2], [0.9, 0.3], [0.5, 0.8]]
"""R of two stages: untrained, after the first, after the second."""


def lines(ax):
    """The lines of a panel by label: their points (n, 2)."""
    return {line.get_label(): np.column_stack([line.get_xdata(), line.get_ydata()]).tolist() for line in ax.get_lines()}


def labels(ax):
    return ax.get_xlabel(), ax.get_ylabel()


def label_of(container):
    """Its label, empty where it has none and is in no legend."""
    label = container.get_label() or ""
    return "" if label.startswith("_") else label


def bars(ax):
    """The error bars of a panel by label: (x, y), and the ends of the bars."""
    found = {}
    for container in ax.containers:
        assert isinstance(container, ErrorbarContainer)
        points, _, ends = container
        (x, y) = points.get_data()
        segments = [segment.tolist() for end in ends for segment in end.get_segments()]
        found.setdefault(label_of(container), []).append((list(x), list(y), segments))
    return found


def band(ax, place=0):
    """The lowest and highest value of a filled band."""
    vertices = ax.collections[place].get_paths()[0].vertices
    return vertices[:, 1].min(), vertices[:, 1].max()


def row(step, mean, ci95=0.01):
    return {"step": step, "mean": mean, "ci95": ci95}


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


def test_an_adaptation_curve_has_the_finite_steps_with_their_intervals():
    (ax,) = figures.adaptation_curve([row(0, 1.0), row(1, None, None), row(2, 0.5, None), row(5, 0.25, 0.05)], MSE).axes
    ((x, y, ends),) = bars(ax)[""]
    assert (x, y) == ([0, 2, 5], [1.0, 0.5, 0.25])
    np.testing.assert_allclose(ends, [[[0, 0.99], [0, 1.01]], [[2, 0.5], [2, 0.5]], [[5, 0.2], [5, 0.3]]])
    assert labels(ax) == ("inner steps", "test mse, 95 % interval")


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


LONG = "maml\npaper=maml_omniglot_5way_1shot_transductive\nstages=4\nbudget=short\noperations=3e+11\ntest_tasks=100\nshots=5"


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
    assert (colours["published"], colours["measured"]) == (figures.COLOURS[2], figures.COLOURS[3])
    of_rest = [to_hex(c[0].get_color()) for c in ax.containers if not label_of(c)]
    assert of_rest == [figures.COLOURS[2], figures.COLOURS[3], figures.COLOURS[3]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["published", "measured"]
    assert [text.get_text() for text in ax.get_yticklabels()] == list(rows)
    assert (ax.get_ylim(), ax.get_xlabel()) == ((2.5, -0.5), "accuracy, %, 95 % interval")


def test_the_legend_names_what_is_published_later_than_the_first_row():
    rows = {"own": (50.0, None, None), "curves": (0.5, None, (None, None)), "maml": (90.0, None, (95.8, None))}
    (ax,) = figures.beside_published(rows, ACCURACY).axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["measured", "published"]


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
    assert colours == [figures.INK, *figures.COLOURS[:3], figures.INK]
    assert right.get_lines()[1].get_color() == figures.COLOURS[3]
    assert [ax.get_title() for ax in (left, right)] == ["5 shots", "10 shots"]
    assert (labels(left), labels(right)) == (("x", "y"), ("x", ""))
    low, high = (x**2).min(), (x**2).max()
    assert left.get_ylim() == pytest.approx((low - 0.4 * (high - low), high + 0.4 * (high - low)))
    assert right.get_ylim() == pytest.approx((4 - 0.4e-3, 4 + 0.4e-3))  # of a constant curve
    assert left.get_legend() is None
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["truth", "prediction", "support"]


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


def test_a_figure_is_written_whole_and_freed(tmp_path):
    figure = figures.adaptation_curve([row(0, 1.0), row(1, 0.5)], MSE)
    figures.save(figure, tmp_path / "figures" / "a.png")
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["a.png"]
    assert (tmp_path / "figures" / "a.png").read_bytes().startswith(b"\x89PNG")
    figures.close(figure)
    assert figure.axes == []


# What a reader needs beside the data ---------------------------------------------------------------------------------------------

NONE = [[None, 0.2], [0.9, None], [0.5, 0.8]]
X = np.array([1.0, 2.0])
SIZES = [
    (lambda: figures.fits([figures.Fit(1, X, X, X, X, {0: X})] * 3), (12, 3.2)),
    (lambda: figures.adaptation_curve([row(0, 1.0)], MSE), (4.5, 3.2)),
    (lambda: figures.stage_matrix(TIMES, ["a", "b"], ACCURACY), (3.6, 3.3)),
    (lambda: figures.stage_curves(TIMES, ["a", "b"], ACCURACY), (5.5, 3.2)),
    (lambda: figures.beside_published({"a": (0.5, None, None), "b": (0.5, None, None)}, MSE), (7, 1.64)),
    (lambda: figures.curves({"a": [("m", X, X, X), ("n", X, X, X)]}, MSE), (5.5, 3.5)),  # a line of the legend for each name
    (lambda: figures.curves({name: [(str(i), X, X, X) for i in range(5)] for name in "abc"}, MSE), (11, 6.85)),  # two in a row
    (lambda: figures.presentations([{"presentation": 1, "mean": 0.2, "ci95": 0.1}], 5), (4.5, 3.2)),
    (lambda: figures.by_length([{"length": 1, "mean": 0.2, "ci95": 0.1}], MSE), (4.5, 3.2)),
    (lambda: figures.task_vectors(np.zeros((3, 2)), {"a": np.arange(3.0), "b": np.arange(3.0)}), (8, 3.2)),
    (lambda: figures.online([1.0], [0], ["a"], MSE), (9, 3.2)),
    (lambda: figures.tasks(dict.fromkeys("abcd", (np.zeros((1, 2)), np.zeros((1, 2)))), "x"), (13.5, 6)),
]


@pytest.mark.parametrize(("draw", "size"), SIZES)
def test_a_figure_grows_with_its_panels(draw, size):
    """Inches, at which the text of 8 points can be read."""
    np.testing.assert_allclose(draw().get_size_inches(), size)


def test_a_learning_curve_has_two_panels_in_two_colours(tmp_path):
    path = metrics_file(tmp_path, {"step": 1, "train/loss": 2.0}, {"step": 1, "val/mse": 0.5, "ci95": 0.25})
    figure = figures.learning_curve(path, MSE)
    np.testing.assert_allclose(figure.get_size_inches(), (9, 3.2))
    left, right = figure.axes
    assert [ax.get_lines()[0].get_color() for ax in (left, right)] == [figures.COLOURS[2], figures.COLOURS[3]]
    assert to_hex(right.collections[0].get_facecolor()[0]) == figures.COLOURS[3]


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


def test_measured_and_published_have_marks_of_their_own():
    (ax,) = figures.beside_published({"maml": (98.5, 1.0, (98.7, 0.4))}, ACCURACY).axes
    assert {label_of(container): container[0].get_marker() for container in ax.containers} == {"published": "s", "measured": "o"}


def test_a_methods_band_has_the_colour_of_its_curve():
    first, second = figures.curves({name: [("m", X, X, X), ("n", X, X, X)] for name in "ab"}, ACCURACY).axes
    for ax in (first, second):
        for line, filled in zip(ax.get_lines(), ax.collections, strict=True):
            assert to_hex(filled.get_facecolor()[0]) == to_hex(line.get_color())
            assert filled.get_alpha() == 0.2


def test_stages_have_colours_of_their_own_and_dots_where_they_were_learned():
    (ax,) = figures.stage_curves(TIMES, ["a", "b"], ACCURACY).axes
    a, learned_a, b, learned_b, mean = ax.get_lines()
    assert (a.get_color(), b.get_color()) == (learned_a.get_color(), learned_b.get_color())
    assert a.get_color() != b.get_color()
    assert (learned_a.get_marker(), a.get_marker(), mean.get_marker()) == ("o", "o", "None")
    assert (mean.get_color(), mean.get_linestyle()) == (figures.INK, ":")


def test_colours_go_along_one_scale():
    from matplotlib import colormaps

    viridis = colormaps["viridis"]
    assert figures._colours(3) == [viridis(0.0), viridis(0.45), viridis(0.9)]
    assert figures._colours(2) == [viridis(0.0), viridis(0.9)]
    assert figures._colours(1) == [viridis(0.0)]


def test_two_rounds_are_averaged_from_four_hundred_on():
    (ax,) = figures.online(np.arange(400.0), [0] * 400, ["a"], ACCURACY).axes
    assert ax.get_ylabel() == "online accuracy, mean of 2 rounds"
    assert ax.get_lines()[0].get_color() == figures.INK
    assert ax.patches[0].get_alpha() == 0.25
    (ax,) = figures.online(np.arange(399.0), [0] * 399, ["a"], ACCURACY).axes
    assert ax.get_ylabel() == "online accuracy"


def test_support_and_query_have_colours_of_their_own_and_images_are_grey():
    figure = figures.tasks({"a": (np.zeros((1, 2)), np.ones((1, 2))), "b": np.zeros((2, 2))}, "x")
    assert [line.get_color() for line in figure.axes[0].get_lines()] == [figures.COLOURS[3], figures.COLOURS[2]]
    image = figure.axes[1].get_images()[0]
    assert (image.get_cmap().name, image.get_interpolation()) == ("gray", "nearest")


def test_fits_have_their_legend_beside_the_last_panel():
    two = figures.Fit(5, X, X, X, X, {0: X, 1: 2 * X})
    first, second, third = figures.fits([two] * 3).axes
    assert [ax.get_legend() is None for ax in (first, second, third)] == [True, True, False]
    truth, before, after, support = first.get_lines()
    assert (truth.get_linestyle(), support.get_linestyle(), support.get_marker()) == (":", "None", "o")
    assert [line.get_color() for line in (before, after)] == list(figures.COLOURS[:2])


def test_task_vectors_have_a_bar_for_each_parameter():
    figure = figures.task_vectors(np.zeros((3, 2)), {"a": np.arange(3.0), "b": np.arange(9.0, 12.0)})
    assert [bar.get_ylim() for bar in figure.axes[2:]] == [(0, 2), (9, 11)]
    (plain,) = figures.task_vectors(np.zeros((3, 2)), {}).axes
    assert to_hex(plain.collections[0].get_facecolor()[0]) == figures.COLOURS[2]


def test_panels_have_a_grid_behind_the_data_and_no_frame():
    (ax,) = figures.adaptation_curve([row(0, 1.0)], MSE).axes
    assert [ax.spines[side].get_visible() for side in ("top", "right", "left", "bottom")] == [False, False, True, True]
    assert ax.get_axisbelow() is True
    assert {line.get_color() for line in ax.get_xgridlines()} == {figures.GUIDE}


def test_a_picture_has_120_dots_an_inch_and_is_laid_out_once(tmp_path):
    figure = figures.adaptation_curve([row(0, 1.0)], MSE)
    figures.save(figure, tmp_path / "a.png")
    header = (tmp_path / "a.png").read_bytes()[16:24]
    assert (int.from_bytes(header[:4]), int.from_bytes(header[4:])) == (540, 384)
    box = figure.axes[0].get_position()
    assert box.x0 * 540 > 50  # there is room for the label
    figures.save(figure, tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()


def test_titles_are_broken_at_their_lines_and_where_they_are_long():
    assert figures._wrapped("a b\n\nlonger than ten", 10) == "a b\n\nlonger\nthan ten"

"""The canvas: sizes, styles, colours and files."""

import numpy as np
import pytest
from panels import TIMES, X, row

from metarun.metric import ACCURACY, MSE
from metarun.report import figures
from metarun.report.figures import canvas

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


def test_a_figure_is_written_whole_and_freed(tmp_path):
    figure = figures.adaptation_curve([row(0, 1.0), row(1, 0.5)], MSE)
    figures.save(figure, tmp_path / "figures" / "a.png")
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["a.png"]
    assert (tmp_path / "figures" / "a.png").read_bytes().startswith(b"\x89PNG")
    figures.close(figure)
    assert figure.axes == []


@pytest.mark.parametrize(("draw", "size"), SIZES)
def test_a_figure_grows_with_its_panels(draw, size):
    """Inches, at which the text of 8 points can be read."""
    np.testing.assert_allclose(draw().get_size_inches(), size)


def test_colours_go_along_one_scale():
    from matplotlib import colormaps

    viridis = colormaps["viridis"]
    assert canvas.colour_scale(3) == [viridis(0.0), viridis(0.45), viridis(0.9)]
    assert canvas.colour_scale(2) == [viridis(0.0), viridis(0.9)]
    assert canvas.colour_scale(1) == [viridis(0.0)]


def test_panels_have_a_grid_behind_the_data_and_no_frame():
    (ax,) = figures.adaptation_curve([row(0, 1.0)], MSE).axes
    assert [ax.spines[side].get_visible() for side in ("top", "right", "left", "bottom")] == [False, False, True, True]
    assert ax.get_axisbelow() is True
    assert {line.get_color() for line in ax.get_xgridlines()} == {canvas.GUIDE}


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
    assert canvas.wrapped("a b\n\nlonger than ten", 10) == "a b\n\nlonger\nthan ten"

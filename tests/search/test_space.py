"""What is searched over, from what the command line says."""

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from metarun.config import ConfigError
from metarun.search.space import Dimension, places, values_at


def dimension(text):
    return Dimension.of(OverridesParser.create().parse_override(text))


def test_dimensions_from_the_command_line():
    assert dimension("a.b=interval(0,2)") == Dimension("a.b", 0, 2)
    assert dimension("a=tag(log,interval(0.001,1))") == Dimension("a", 0.001, 1, log=True)
    assert dimension("a=int(interval(1,8))") == Dimension("a", 1, 8, whole=True)
    assert dimension("a=range(1,5)") == Dimension("a", 1, 4, whole=True)
    assert dimension("a=x,y").choices == ("x", "y")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a=interval(2,1)", "a: expected a lower bound below the upper one"),
        ("a=tag(log,interval(0,1))", "both above 0"),
        ("a=range(0,1,0.1)", "without a step"),
    ],
)
def test_what_cannot_be_searched_over_is_refused(text, line):
    with pytest.raises(ConfigError, match=line):
        dimension(text)


def test_the_unit_cube_and_back():
    space = [Dimension("lr", 0.001, 1, log=True), Dimension("steps", 1, 5, whole=True), Dimension("norm", choices=("a", "b"))]
    point = places(space, {"lr": 0.001**0.5, "steps": 2, "norm": "b"})
    np.testing.assert_allclose(point, [0.5, 0.25, 0.75])
    back = values_at(space, point)
    assert back["lr"] == pytest.approx(0.001**0.5)
    assert (back["steps"], back["norm"]) == (2, 1)  # Optuna has choices by their number
    assert places(space, {"lr": 2.0, "steps": 2, "norm": "b"}) is None
    assert places(space, {"lr": 0.1, "steps": 2}) is None

"""What learners report besides scores: its rows in results.json are means over tasks, and each has a picture."""

import numpy as np
import pytest

from metarun.kinds import Classification
from metarun.report import findings
from metarun.report.statistics import over_tasks

RANDOM = np.random.default_rng(0)


def test_accuracy_by_presentation():
    scores = RANDOM.random((6, 12))
    found = findings.by_presentation(scores, 5)
    assert (found.key, found.picture, found.embedding) == ("by_presentation", "presentations", None)
    assert [row["presentation"] for row in found.rows] == list(range(1, 11))
    assert found.rows[3] == {"presentation": 4, "mean": over_tasks(scores[:, 3])["mean"], "ci95": over_tasks(scores[:, 3])["ci95"]}
    assert len(findings.by_presentation(scores[:, :2], 5).rows) == 2
    chance = found.draw().axes[0].get_lines()[-1]
    assert list(chance.get_ydata()) == [0.2, 0.2]


def test_the_score_by_length():
    scores = RANDOM.random((6, 3))
    found = findings.by_length(scores, [1, 2, 5], Classification().metric)
    assert (found.key, found.picture) == ("by_length", "lengths")
    assert [row["length"] for row in found.rows] == [1, 2, 5]
    assert [row["mean"] for row in found.rows] == pytest.approx(scores.mean(0))
    (ax,) = found.draw().axes
    assert list(ax.get_lines()[0].get_xdata()) == [1, 2, 5]


def test_task_vectors_against_the_parameters_that_vary():
    vectors = RANDOM.normal(size=(40, 4))
    parameters = {"slope": vectors @ [1.0, 2.0, 0.0, -1.0], "frequency": np.ones(40)}
    found = findings.task_vectors(vectors, parameters)
    assert (found.key, found.picture) == ("task_vectors", "tasks")
    assert found.rows[-1]["components"] == 4
    assert found.rows[-1]["slope"] == pytest.approx(1)
    assert "frequency" not in found.rows[-1]
    embedded, labels = found.embedding
    assert embedded is vectors
    assert list(labels) == ["slope"]
    assert found.draw().axes[0].get_xlabel() == "first component"

"""Parameters recovered from made-up task vectors."""

import numpy as np
import pytest

from metarun.report.vectors import principal_components, recovered


def test_components_are_ordered_and_keep_distances():
    vectors = np.random.default_rng(0).normal(size=(50, 3)) * [1, 5, 2] + 7
    components = principal_components(vectors)
    assert components.shape == (50, 3)
    assert list(components.std(0)) == sorted(components.std(0), reverse=True)
    np.testing.assert_allclose(np.linalg.norm(components[0] - components[9]), np.linalg.norm(vectors[0] - vectors[9]))


def test_what_stands_in_the_vectors_is_recovered():
    rng = np.random.default_rng(0)
    amplitude, phase, noise = rng.uniform(1, 5, 400), rng.uniform(0, np.pi, 400), rng.normal(size=(400, 3)) * 0.01
    vectors = np.column_stack([9 * np.sin(phase), 3 * amplitude, np.cos(phase), noise[:, 0]]) @ rng.normal(size=(4, 4))
    two, four = recovered(vectors, {"amplitude": amplitude, "phase": phase, "unrelated": rng.normal(size=400)})
    assert (two["components"], four["components"]) == (2, 4)
    assert set(four) == {"components", "amplitude", "sin phase", "cos phase", "unrelated"}
    assert min(four["amplitude"], four["sin phase"], four["cos phase"]) > 0.99
    assert four["unrelated"] < 0.1
    assert two["cos phase"] < four["cos phase"]
    assert recovered(vectors[:7], {"amplitude": amplitude[:7]}) == []
    assert four["amplitude"] == pytest.approx(1, abs=0.01)


def test_each_component_is_centred_by_itself():
    vectors = np.array([[1.0, 100.0], [3.0, 100.0], [1.0, 102.0], [3.0, 102.0]])  # a square round (2, 101)
    np.testing.assert_allclose(np.abs(principal_components(vectors)).sum(), 8.0)
    np.testing.assert_allclose(principal_components(vectors).mean(0), 0.0, atol=1e-12)


def test_more_dimensions_than_tasks_have_a_component_a_task():
    assert principal_components(np.random.default_rng(0).normal(size=(5, 30))).shape == (5, 5)


def test_r_squared_by_hand():
    """On the odd tasks, of a line through the even ones: R² = 1 - mean squared error / variance."""
    x = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    y = x + np.array([0, 0.5, 0, -0.5, 0, 0.5, 0, -0.5])  # the even ones are on the line
    vectors = np.column_stack([x, np.tile([0.001, 0.001, -0.001, -0.001], 2)])
    (found,) = recovered(vectors, {"y": y})  # eight tasks are just enough for two components
    odd = y[1::2]
    assert found == {"components": 2, "y": pytest.approx(1 - 0.25 / np.var(odd), rel=1e-6)}
    assert recovered(vectors[:7], {"y": y[:7]}) == []

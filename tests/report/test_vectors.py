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

"""Student's t against tables and scipy, paired tests by hand."""

import math

import numpy as np
import pytest

from metarun.report.statistics import holm, over_seeds, paired, t_quantile, t_tails


def test_quantiles_are_those_of_the_tables():
    known = {1: 12.7062, 2: 4.3027, 4: 2.7764, 9: 2.2622, 30: 2.0423, 1000: 1.9623}
    assert {df: round(t_quantile(df), 4) for df in known} == known
    assert t_quantile(10, 0.99) == pytest.approx(3.1693, abs=1e-4)


def test_tails_by_hand():
    assert t_tails(0.5, 1) == pytest.approx(1 - 2 / math.pi * math.atan(0.5), abs=1e-12)  # Cauchy's distribution
    assert t_tails(-1.0, 2) == pytest.approx(1 - 1 / math.sqrt(3), abs=1e-12)
    assert t_tails(0.0, 7) == 1.0
    assert 0 < t_tails(40.0, 9) < 1e-10
    assert t_tails(math.inf, 3) == 0.0


def test_means_over_seeds_by_hand():
    assert over_seeds([1.0, 3.0]) == (2.0, pytest.approx(12.7062, abs=1e-3))
    assert over_seeds([0.5]) == (0.5, None)


def test_a_paired_test_by_hand():
    a, b = np.array([3.0, 5.0, 4.0]), np.array([1.0, 4.0, 1.0])  # differences 2, 1, 3
    found = paired(a, b)
    assert (found.difference, found.df) == (2.0, 2)
    assert found.t == pytest.approx(2 * 3**0.5)
    assert found.ci95 == pytest.approx(4.3027 / 3**0.5, abs=1e-4)
    assert paired(a, a)[:5] == (0.0, 0.0, 0.0, 2, 1.0)
    assert paired(a + 1, a).p == 0.0
    assert (paired(a + 1, a).t, paired(a - 1, a).t) == (math.inf, -math.inf)


@pytest.mark.parametrize(("a", "b"), [(np.ones(3), np.ones(2)), (np.ones(1), np.ones(1)), (np.ones((3, 2)), np.ones((3, 2)))])
def test_scores_that_are_not_those_of_two_or_more_tasks_are_refused(a, b):
    with pytest.raises(ValueError, match="arrays of one length, 2 or more; found "):
        paired(a, b)


@pytest.mark.parametrize("size", [2, 5, 600, 10_000])
def test_a_paired_test_is_scipys(size):
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(size)
    a, b = random.normal(0.7, 0.2, size), random.normal(0.69, 0.3, size)
    found, theirs = paired(a, b), stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.95)
    assert found.t == pytest.approx(theirs.statistic, rel=1e-10)
    assert found.p == pytest.approx(theirs.pvalue, rel=1e-8)
    assert found.df == theirs.df
    assert (found.difference - found.ci95, found.difference + found.ci95) == pytest.approx(tuple(interval), rel=1e-8)


def test_holm_by_hand():
    assert holm([]) == []
    assert holm([0.02]) == [0.02]
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # 0.04 × 1 is raised to 0.03 × 2
    assert holm([0.5, 0.4]) == pytest.approx([0.8, 0.8])
    assert holm([0.9, 0.6, 0.0]) == pytest.approx([1.0, 1.0, 0.0])

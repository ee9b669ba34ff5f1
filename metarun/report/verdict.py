"""Whether a measured figure reproduces a published one: an equivalence test with a stated margin. Imports no torch.

The margin, its reasons and what each verdict claims are in docs/protocols.md, "Verdicts".
"""

import math

from metarun.metric import Metric
from metarun.report.published import Published
from metarun.report.statistics import t_quantile

WIDEST = 0.015
"""Share of a metric's ceiling, 1.5 points of accuracy, that the margin is at most, where neither the published interval nor the
printed digits are coarser."""
SEEDS = 3
"""Fewest seeds for a verdict: two give an interval of one degree of freedom, and one gives none."""
POWER = 0.8
ROUNDING = 1e-9
"""Of sums of decimals: an interval that ends on the margin as printed lies within it."""


def margin(published: Published, metric: Metric) -> float:
    """How far a measured mean may lie from the published one and still count as the same, in its unit (points, or squared error).

    The largest of the published 95 % interval, half of the last printed digit and the smallest difference that matters: of an
    accuracy a quarter of its errors, at most 1.5 points; of a metric without a ceiling, such as a mean squared error, a tenth.

    Raises:
        ValueError: the paper prints no value.
    """
    value = _value(published)
    if metric.ceiling is None:
        matters = abs(value) / 10
    else:
        ceiling = metric.scale * metric.ceiling
        matters = min((ceiling - value) / 4, WIDEST * ceiling)
    return max(published.ci95 or 0.0, 0.5 * 10.0**-published.digits, matters)


def verdict(mean: float, ci95: float | None, seeds: int, published: Published, metric: Metric) -> str:
    """What a figure measured over seeds under the full protocol says about the published one.

    Args:
        mean: over seeds, as shown: an accuracy in per cent.
        ci95: half the width of its 95 % interval over seeds; None for one seed.
        seeds: how many.
        published: the figure with its value, interval and digits.
        metric: of both.

    Returns:
        `reproduced` where the whole interval of the difference lies within the `margin`, `better than published` or `worse than
        published` where it lies outside on that side, `inconclusive` where it does neither or rests on fewer than three seeds,
        `not finite`.

    Raises:
        ValueError: the paper prints no value.
    """
    value, allowed = _value(published), margin(published, metric)
    if not math.isfinite(mean):
        return "not finite"
    if seeds < SEEDS or ci95 is None:
        return "inconclusive"
    gain = metric.gain(mean, over=value)
    if abs(gain) + ci95 <= allowed + ROUNDING:
        return "reproduced"
    if gain - ci95 >= allowed - ROUNDING:
        return "better than published"
    if gain + ci95 <= -allowed + ROUNDING:
        return "worse than published"
    return "inconclusive"


def seeds_wanted(spread: float, allowed: float) -> int:
    """How many seeds find a method whose mean is the published one `reproduced` with a probability of 80 %; at least three.

    The least n with √n margin / spread ≥ t(n - 1, 0.975) + t(n - 1, 0.9): the sample size for two one-sided t tests at a true
    difference of zero, with Student's t in place of its noncentral form (Chow, Shao, Wang and Lokhnygina, Sample size
    calculations in clinical research, 3rd edition, 2017, chapter 3).

    Args:
        spread: standard deviation over seeds (n - 1), in the unit of the margin.
        allowed: the margin, above 0.
    """
    if spread <= 0:
        return SEEDS
    ratio = allowed / spread
    seeds = max(SEEDS, math.floor((3.24 / ratio) ** 2))  # what the normal distribution wants, 1.960 + 1.282; Student's t, more
    while seeds**0.5 * ratio < t_quantile(seeds - 1) + t_quantile(seeds - 1, POWER):
        seeds += 1
    return seeds


def _value(published: Published) -> float:
    if published.value is None:
        raise ValueError("expected a published value; the paper has curves alone")
    return published.value

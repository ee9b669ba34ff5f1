"""Whether a measurement reproduces a published value: an equivalence test with a stated margin. Imports no torch.

docs/protocols.md, "Verdicts", explains the margin and the meaning of each verdict.
"""

import math

from metarun.metric import Metric
from metarun.report.published import Published
from metarun.report.statistics import t_quantile

WIDEST = 0.015
"""Largest margin as a share of the metric's ceiling (1.5 points of accuracy), unless the published interval or the printed digits
are coarser."""
SEEDS = 3
"""Fewest seeds for a verdict: two give an interval with one degree of freedom, one gives none."""
POWER = 0.8
ROUNDING = 1e-9
"""Tolerance for rounding errors: an interval that ends exactly on the printed margin counts as within it."""


def margin(published: Published, metric: Metric) -> float:
    """Largest difference from the published value that counts as equivalent, in the metric's unit (points, or squared error).

    It is the largest of the published 95 % interval, half the last printed digit, and the smallest difference that matters: for
    an accuracy, a quarter of the error rate but at most 1.5 points; for a metric without a ceiling, such as a mean squared error,
    a tenth of the value.

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
    """The verdict on a published value from measurements over seeds under the full protocol.

    Args:
        mean: over seeds, as shown: an accuracy in per cent.
        ci95: half the width of its 95 % interval over seeds; None for a single seed.
        seeds: their number.
        published: the published value with its interval and digits.
        metric: of both.

    Returns:
        `reproduced` if the whole interval of the difference is within the `margin`, `better than published` or `worse than
        published` if it is wholly outside on that side, `inconclusive` otherwise or with fewer than three seeds, and `not finite`
        if the mean is not.

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
    """Number of seeds for which a method whose true mean is the published value is `reproduced` with 80 % power; at least three.

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
    seeds = max(SEEDS, math.floor((3.24 / ratio) ** 2))  # by the normal distribution, 1.960 + 1.282; Student's t needs more
    while seeds**0.5 * ratio < t_quantile(seeds - 1) + t_quantile(seeds - 1, POWER):
        seeds += 1
    return seeds


def _value(published: Published) -> float:
    if published.value is None:
        raise ValueError("expected a published value; the paper shows only curves")
    return published.value

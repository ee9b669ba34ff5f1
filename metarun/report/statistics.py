"""Means over seeds and tests between methods, by Student's t distribution. Imports neither torch nor scipy."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


class Paired(NamedTuple):
    """A paired t test: the mean difference with its 95 % interval, t, degrees of freedom and the two-sided p value."""

    difference: float
    ci95: float
    t: float
    df: int
    p: float


def paired(a: Numbers, b: Numbers) -> Paired:
    """Test whether the mean of ``a`` - ``b`` differs from 0, for scores (n,) on the same tasks.

    Raises:
        ValueError: the arrays differ in length, or have fewer than 2 elements.
    """
    if a.shape != b.shape or a.ndim != 1 or len(a) < 2:
        raise ValueError(f"expected two arrays of one length, 2 or more; found {a.shape} and {b.shape}")
    difference = a - b
    df, mean = len(a) - 1, float(difference.mean())
    error = float(difference.std(ddof=1)) / len(a) ** 0.5
    if error == 0:  # the same difference on every task
        return Paired(mean, 0.0, math.copysign(math.inf, mean) if mean else 0.0, df, 0.0 if mean else 1.0)
    t = mean / error
    return Paired(mean, t_quantile(df) * error, t, df, t_tails(t, df))


def holm(p: Sequence[float]) -> list[float]:
    """P values corrected for multiple comparisons, in the order given.

    Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6:65, 1979. The
    smallest of n is multiplied by n, the next by n - 1 and so on; each is at most 1, and at least as large as the one before.
    """
    corrected, largest = [0.0] * len(p), 0.0
    for rank, place in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[place]))
        corrected[place] = largest
    return corrected


def over_tasks(*stages: Numbers) -> dict[str, Any]:
    """Mean over tasks with its 95 % interval, 1.96 s / √T, for per-task scores (T,).

    With several stages, the mean is the mean of the stages' means, and the interval combines theirs. A task whose score is not
    finite is counted, not dropped: it makes the mean and the interval null, and ranks last in the median.
    """
    scores = np.concatenate(stages)
    finite = np.isfinite(scores)
    count = len(scores)
    ranked = np.where(finite, scores, np.inf)
    median = float(np.median(ranked)) if finite.sum() * 2 > count else None
    all_finite = bool(finite.all())
    has_interval = all_finite and all(len(stage) > 1 for stage in stages)
    return {
        "mean": float(np.mean([stage.mean() for stage in stages])) if all_finite else None,
        "ci95": 1.96 * float(sum(s.var(ddof=1) / len(s) for s in stages) ** 0.5) / len(stages) if has_interval else None,
        "n_tasks": count,
        "n_nonfinite": int(count - finite.sum()),
        "median": median,
    }


def over_seeds(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and its 95 % interval (Student's t with n - 1 degrees of freedom); no interval for a single seed."""
    if len(values) < 2:
        return float(values[0]), None
    return float(np.mean(values)), t_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / len(values) ** 0.5


def t_tails(t: float, df: float) -> float:
    """The two-sided tail probability of Student's t beyond ``t``."""
    return _incomplete_beta(df / (df + t * t), df / 2, 0.5)


@cache
def t_quantile(df: float, inside: float = 0.95) -> float:
    """The t for which Student's distribution has the probability ``inside`` in [-t, t]: 12.706 for 1 degree of freedom and 95 %."""
    low, high = 0.0, 1.0
    while t_tails(high, df) > 1 - inside:
        high *= 2
    for _ in range(100):  # bisection, to the last bit
        middle = (low + high) / 2
        low, high = (middle, high) if t_tails(middle, df) > 1 - inside else (low, middle)
    return high


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function, by Lentz's method for its continued fraction."""
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):  # the fraction converges fast on this side only
        return 1 - _incomplete_beta(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    value, c, d = 1.0, 1.0, 0.0
    for i in range(500):
        m = i // 2
        if i == 0:
            step = 1.0
        elif i % 2:
            step = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            step = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + step * d)
        c = 1 + step / c
        value *= c * d
        if abs(c * d - 1) < 1e-15:
            break
    return front * (value - 1) / a

"""The search space: configuration keys and their possible values, as written on the command line."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from numpy.typing import NDArray

from metarun.config import ConfigError

DIGITS = 4
"""Significant digits of suggested numbers."""


@dataclass(frozen=True)
class Dimension:
    """The values of a key: ``choices``, or numbers from ``low`` to ``high``, optionally integers (``whole``) or on a log scale."""

    key: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()

    @classmethod
    def of(cls, override: Override) -> "Dimension":
        """From `KEY=interval(a,b)`, with `tag(log,…)` or `int(…)` around it, `KEY=range(a,b)`, or `KEY=a,b,c`.

        Raises:
            ConfigError: a range has a step, or the bounds are missing or invalid.
        """
        key, value = override.get_key_element(), override.value()
        if isinstance(value, ChoiceSweep):
            return cls(key, choices=tuple(override.sweep_iterator()))
        if isinstance(value, RangeSweep):
            if value.step not in (None, 1) or value.start is None or value.stop is None:
                raise ConfigError(f"{key}: a search takes range(a,b) without a step, or interval(a,b)")
            low, high, whole = float(value.start), float(value.stop) - 1, True
        elif isinstance(value, IntervalSweep):
            if value.start is None or value.end is None:
                raise ConfigError(f"{key}: expected two bounds, interval(a,b)")
            low, high = float(value.start), float(value.end)
            whole = isinstance(value.start, int) and isinstance(value.end, int)  # as set by int(interval(a,b))
        else:
            raise ConfigError(f"{key}: expected interval(a,b), range(a,b) or a list to search over")
        log = "log" in value.tags
        if not low < high or (log and low <= 0):
            raise ConfigError(f"{key}: expected a lower bound below the upper one{', both above 0' if log else ''}")
        return cls(key, low, high, log, whole)

    def ask(self, trial: Any) -> str:
        """The value suggested by an Optuna trial, as text for the command line."""
        if self.choices:
            return str(self.choices[trial.suggest_categorical(self.key, list(range(len(self.choices))))])
        if self.whole:
            return str(trial.suggest_int(self.key, int(self.low), int(self.high), log=self.log))
        return f"{trial.suggest_float(self.key, self.low, self.high, log=self.log):.{DIGITS}g}"

    def to_unit(self, value: Any) -> float | None:
        """Position of ``value`` between the bounds, in [0, 1]; None if it is outside this space."""
        if self.choices:
            places = [i for i, choice in enumerate(self.choices) if str(choice) == str(value)]
            return (places[0] + 0.5) / len(self.choices) if places else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return None
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return (at - low) / (high - low)

    def from_unit(self, place: float) -> Any:
        """The value at ``place`` in [0, 1], in Optuna's representation."""
        if self.choices:
            return min(int(place * len(self.choices)), len(self.choices) - 1)
        low, high = (math.log(v) if self.log else v for v in (self.low, self.high))
        value = low + place * (high - low)
        value = min(max(math.exp(value) if self.log else value, self.low), self.high)
        return round(value) if self.whole else value


def places(space: Sequence[Dimension], values: Mapping[str, Any]) -> NDArray[np.float64] | None:
    """Values by key as a point (dimensions,) of the unit cube; None if one is outside the space."""
    point = [dimension.to_unit(values.get(dimension.key)) for dimension in space]
    return None if None in point else np.array(point, dtype=np.float64)


def values_at(space: Sequence[Dimension], point: NDArray[np.float64]) -> dict[str, Any]:
    """A point (dimensions,) of the unit cube as values by key, in Optuna's representation."""
    return {dimension.key: dimension.from_unit(float(place)) for dimension, place in zip(space, point, strict=True)}

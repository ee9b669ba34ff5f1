"""What a test measures, and how its values are shown and compared. Imports no torch: reports read metrics from results.json."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from metarun.config import ConfigError, require


@dataclass(frozen=True)
class Metric:
    """The score of a task.

    Values are stored as they are measured and shown times ``scale``: an accuracy of 0.97 is shown as 97 %.

    Attributes:
        name: its key in results.json, metrics.jsonl and TensorBoard.
        label: its name on axes and in tables, with the unit.
        unit: what follows a shown value, as "%".
        scale: factor from a stored to a shown value.
        digits: decimals of a shown value.
        higher_is_better: whether a learner maximises it.
        ceiling: the highest possible value, as stored; None: there is none.
        heavy_tailed: whether a few tasks can dominate the mean, as those on which adaptation diverges do in a mean squared error.
            Values of such a metric are at least 0. Reports add their median and draw them on logarithmic axes; the number of inner
            steps is not chosen on validation tasks, which rarely include the few.

    Raises:
        RangeError: no name, a scale that is not positive, or an impossible number of decimals.
    """

    name: str
    label: str
    unit: str = ""
    scale: float = 1.0
    digits: int = 3
    higher_is_better: bool = False
    ceiling: float | None = None
    heavy_tailed: bool = False

    def __post_init__(self) -> None:
        require(self.name.isidentifier(), "metric.name", self.name, "letters, digits and underscores, as in mean_error")
        require(self.scale > 0, "metric.scale", self.scale, "a number above 0")
        require(self.digits in range(13), "metric.digits", self.digits, "0 to 12")

    @property
    def sign(self) -> float:
        """Turns a value into one that is higher where the learner is better."""
        return 1.0 if self.higher_is_better else -1.0

    def error(self, value: float) -> float:
        """What a search minimises: the value itself, or how far it is from its ceiling (from 0 where it has none)."""
        return (self.ceiling or 0.0) - value if self.higher_is_better else value

    def gain(self, value: float, over: float) -> float:
        """How much better ``value`` is than ``over``; negative where it is worse."""
        return value - over if self.higher_is_better else over - value

    def text(self, found: Mapping[str, Any]) -> str:
        """`97.10 ± 0.21`, of the mean and the interval (`ci95`, None: not known) in a part of results.json."""
        if found["mean"] is None:
            return "not finite"
        interval = "" if found["ci95"] is None else f" ± {self.shown(found['ci95'])}"
        return self.shown(found["mean"]) + interval

    def shown(self, value: float) -> str:
        """A stored value as it is printed, without its unit."""
        return f"{value * self.scale:.{self.digits}f}"

    def describe(self, found: Mapping[str, Any]) -> str:
        """`accuracy 97.10 ± 0.21 %`, of the same part."""
        if found["mean"] is None:
            return f"{self.name} not finite on {found['n_nonfinite']} of {found['n_tasks']} tasks"
        return f"{self.name} {self.text(found)}{self.unit and f' {self.unit}'}"

    def record(self) -> dict[str, Any]:
        """What results.json says of it, for `recorded`."""
        return asdict(self)


ACCURACY = Metric("accuracy", "accuracy, %", unit="%", scale=100.0, digits=2, higher_is_better=True, ceiling=1.0)
MSE = Metric("mse", "mean squared error", heavy_tailed=True)

KNOWN = {metric.name: metric for metric in (ACCURACY, MSE)}
"""Metrics of metarun's own kinds of task; one of your own is known from results.json alone."""
OF_KIND = {"classification": ACCURACY, "regression": MSE}
"""By the name of the kind."""


def recorded(results: Mapping[str, Any]) -> Metric:
    """The metric of a run, from its results.json.

    Earlier versions recorded the kind of task, and the first ones nothing but the scores under the metric's name.

    Raises:
        ConfigError: it is not there, or not a metric.
    """
    told = results.get("metric")
    if told is None:
        scores = results.get("test") or results.get("validation") or {}
        known = OF_KIND.get((results.get("task") or {}).get("kind", ""))
        known = known or next((metric for name, metric in KNOWN.items() if name in scores), None)
        if known is None:
            raise ConfigError(f"results.json: expected a score named {' or '.join(KNOWN)}, found {', '.join(scores) or 'none'}")
        return known
    try:
        names = {field.name for field in fields(Metric)}
        return Metric(**{key: value for key, value in told.items() if key in names})
    except (AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"results.json: metric: {error}") from None

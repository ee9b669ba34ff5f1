"""Linear regression with noise, y = a x + b + noise; the best possible learner is known in closed form (ridge regression)."""

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from metarun.data.curves import CurveData, Interval
from metarun.data.source import task_shapes


class Linear(CurveData):
    """A task is a line with its own slope and intercept; inputs (1,), targets (1,).

    Args:
        seed: of the tasks.
        slope, intercept, x: bounds of the uniform distributions of a, b and x.
        test_slope, test_intercept, test_x: the same for test tasks; null: as in training.
        noise: standard deviation of the Gaussian noise on every target.
        shots, queries: support examples and queries per test task.
        train_shots, train_queries: the same for training tasks; null: as for test tasks.
        stages: number of equal parts into which the range of ``stage_by`` is divided, one per stage; null: one stage.
        stage_by: the quantity whose range the stages divide.
    """

    def __init__(
        self,
        seed: int,
        *,
        slope: Interval = (-2.0, 2.0),
        intercept: Interval = (-1.0, 1.0),
        x: Interval = (-2.0, 2.0),
        test_slope: Interval | None = None,
        test_intercept: Interval | None = None,
        test_x: Interval | None = None,
        noise: float = 0.5,
        shots: int = 10,
        queries: int = 10,
        train_shots: int | None = None,
        train_queries: int | None = None,
        stages: int | None = None,
        stage_by: Literal["slope", "intercept", "x"] = "slope",
    ) -> None:
        bounds = {"slope": slope, "intercept": intercept, "x": x}
        test_bounds = {"slope": test_slope, "intercept": test_intercept, "x": test_x}
        shapes = task_shapes(None, shots, queries, None, train_shots, train_queries)
        super().__init__("linear", seed, line, bounds, test_bounds, noise, *shapes, stages, stage_by)


def line(x: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    """Slope times x plus intercept."""
    return parameters["slope"] * x + parameters["intercept"]

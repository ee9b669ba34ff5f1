"""Sine regression (Finn, Abbeel and Levine, ICML 2017, section 5.1): y = A sin(ω x - φ), in the paper with ω = 1, no noise."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from metarun.data.curves import CurveData, Interval
from metarun.data.source import task_shapes


class Sine(CurveData):
    """A task is a wave with its own amplitude, phase and frequency; inputs (1,), targets (1,).

    Args:
        seed: of the tasks.
        amplitude, phase, frequency, x: bounds of the uniform distributions of A, φ (radians), ω and x.
        test_amplitude, test_phase, test_frequency, test_x: the same for test tasks; null: as in training.
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
        amplitude: Interval = (0.1, 5.0),
        phase: Interval = (0.0, math.pi),
        frequency: Interval = (1.0, 1.0),
        x: Interval = (-5.0, 5.0),
        test_amplitude: Interval | None = None,
        test_phase: Interval | None = None,
        test_frequency: Interval | None = None,
        test_x: Interval | None = None,
        noise: float = 0.0,
        shots: int = 10,
        queries: int = 10,
        train_shots: int | None = None,
        train_queries: int | None = None,
        stages: int | None = None,
        stage_by: Literal["phase", "amplitude", "frequency", "x"] = "phase",
    ) -> None:
        bounds = {"amplitude": amplitude, "phase": phase, "frequency": frequency, "x": x}
        test_bounds = {"amplitude": test_amplitude, "phase": test_phase, "frequency": test_frequency, "x": test_x}
        shapes = task_shapes(None, shots, queries, None, train_shots, train_queries)
        super().__init__("sine", seed, wave, bounds, test_bounds, noise, *shapes, stages, stage_by)


def wave(x: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    """A sin(ω x - φ)."""
    return parameters["amplitude"] * torch.sin(parameters["frequency"] * x - parameters["phase"])

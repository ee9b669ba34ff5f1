"""Sine waves to regress (Finn, Abbeel and Levine, ICML 2017, section 5.1): y = A sin(x - φ), without noise."""

import math

import torch
from torch import Tensor

from metarun.config import require
from metarun.data.source import Data, Split, Stage, TaskShape, TaskSource, require_interval, task_shapes
from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.rng import derive, uniform

Interval = tuple[float, float]


class Sine(Data):
    """Tasks are waves of one amplitude and phase; inputs (1,), targets (1,). Generated, so nothing is read and no licence holds.

    Args:
        seed: of the tasks.
        amplitude, phase, x: bounds of the uniform distributions of A, φ (radians) and x.
        shots, queries: support examples and queries of a test task.
        train_shots, train_queries: the same in training; null: as in the test.
        stages: divide the phases into this many equal parts, one a stage; null: one stage.

    """

    def __init__(
        self,
        seed: int,
        *,
        amplitude: Interval = (0.1, 5.0),
        phase: Interval = (0.0, math.pi),
        x: Interval = (-5.0, 5.0),
        shots: int = 10,
        queries: int = 10,
        train_shots: int | None = None,
        train_queries: int | None = None,
        stages: int | None = None,
    ) -> None:
        for key, interval in {"amplitude": amplitude, "phase": phase, "x": x}.items():
            require_interval(key, interval)
        require(stages is None or stages > 0, "stages", stages, "1 or more, or null")
        self.train, self.test = task_shapes(None, shots, queries, None, train_shots, train_queries)
        self.spec = TaskSpec("regression", (1,), outputs=1, train_outputs=1, name="sine")
        self.seed, self.amplitude, self.phase, self.x, self.parts = seed, amplitude, phase, x, stages or 1

    def stages(self, device: torch.device) -> list[Stage]:
        low, high = self.phase
        width = (high - low) / self.parts
        made = []
        for i in range(self.parts):
            phase = (low + i * width, low + (i + 1) * width) if self.parts > 1 else self.phase
            name = f"phase {phase[0]:.2f}-{phase[1]:.2f}"

            def source(split: Split, shape: TaskShape, phase: Interval = phase, stage: int = i) -> SineTasks:
                return SineTasks(derive(self.seed, "tasks", split, stage), self.amplitude, phase, self.x, shape, device)

            made.append(Stage(name, source("train", self.train), source("val", self.test), source("test", self.test)))
        return made

    def curve(self, shots: int, device: torch.device) -> Episodes:
        key = derive(self.seed, "tasks", "curve")  # one wave, whatever the shots
        shape = TaskShape(None, shots, queries=1)
        episodes = SineTasks(key, self.amplitude, self.phase, self.x, shape, device).sample(torch.arange(1))
        x = torch.linspace(*self.x, 200, device=device).view(1, -1, 1)
        amplitude, phase = (episodes.context[name].unsqueeze(-1) for name in ("amplitude", "phase"))
        return Episodes(episodes.support, Examples(x, amplitude * torch.sin(x - phase)), episodes.context)


class SineTasks(TaskSource):
    """The tasks of one split of one stage. ``context`` tells amplitude and phase, (T, 1) each."""

    def __init__(self, key: int, amplitude: Interval, phase: Interval, x: Interval, shape: TaskShape, device: torch.device) -> None:
        self.key, self.amplitude, self.phase, self.x, self.shape, self.device = key, amplitude, phase, x, shape, device

    def sample(self, ids: Tensor) -> Episodes:
        shots = self.shape.shots
        draws = uniform(self.key, ids.to(self.device), 2 + shots + self.shape.queries)
        amplitude, phase = _between(self.amplitude, draws[:, 0:1]), _between(self.phase, draws[:, 1:2])
        x = _between(self.x, draws[:, 2:])
        y = amplitude * torch.sin(x - phase)
        x, y = x.unsqueeze(-1), y.unsqueeze(-1)
        return Episodes(
            Examples(x[:, :shots], y[:, :shots]),
            Examples(x[:, shots:], y[:, shots:]),
            {"amplitude": amplitude, "phase": phase},
        )


def _between(interval: Interval, u: Tensor) -> Tensor:
    low, high = interval
    return low + (high - low) * u

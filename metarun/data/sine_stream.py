"""Sequences of sine waves that one network learns in order (Javed and White, NeurIPS 2019, section 5)."""

import math

import torch
from torch import Tensor

from metarun.config import require
from metarun.data.curves import CurveTasks, Interval
from metarun.data.sine import wave
from metarun.data.source import Data, Stage, TaskShape, TaskSource, task_shapes
from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.kinds import REGRESSION
from metarun.rng import derive


class SineStream(Data):
    """A task is a sequence of waves; an input consists of x and a one-hot index of the wave.

    Support and query sets are ordered by wave; inputs (1 + functions,), targets (1,).

    Args:
        seed: of the tasks.
        functions: number of waves per task.
        amplitude, phase, x: bounds of the uniform distributions of amplitude, phase and inputs.
        shots, queries: support examples and queries per wave of a test task.
        train_shots, train_queries: the same for training tasks; null: as for test tasks.
    """

    def __init__(
        self,
        seed: int,
        *,
        functions: int = 10,
        amplitude: Interval = (0.1, 5.0),
        phase: Interval = (0.0, math.pi),
        x: Interval = (-5.0, 5.0),
        shots: int = 40,
        queries: int = 20,
        train_shots: int | None = None,
        train_queries: int | None = None,
    ) -> None:
        require(functions > 1, "functions", functions, "2 or more")
        self.seed, self.functions = seed, functions
        self.bounds = {"amplitude": amplitude, "phase": phase, "frequency": (1.0, 1.0), "x": x}
        self.train, self.test = task_shapes(None, shots, queries, None, train_shots, train_queries)
        self.spec = TaskSpec(REGRESSION, (1 + functions,), 1, 1, "sine_stream", parts=functions)

    def stages(self, device: torch.device) -> list[Stage]:
        shapes = {"train": self.train, "val": self.test, "test": self.test}
        return [Stage("sine_stream", *(self._source(split, shape, device) for split, shape in shapes.items()))]

    def _source(self, split: str, shape: TaskShape, device: torch.device) -> "InSequence":
        return InSequence(CurveTasks(derive(self.seed, "tasks", split), wave, self.bounds, 0.0, shape, device), self.functions)


class InSequence(TaskSource):
    """Tasks made of ``parts`` consecutive tasks of another source, with the one-hot position of the part added to the inputs."""

    def __init__(self, of: TaskSource, parts: int) -> None:
        self.of, self.parts = of, parts

    def sample(self, ids: Tensor) -> Episodes:
        parts = self.of.sample(self._consecutive(ids))
        place = torch.eye(self.parts, device=parts.query.x.device).repeat(len(ids), 1).unsqueeze(1)

        def joined(of: Examples) -> Examples:
            x = torch.cat([of.x, place.expand(-1, of.x.shape[1], -1)], -1)
            return Examples(x.view(len(ids), -1, x.shape[-1]), of.y.reshape(len(ids), -1, of.y.shape[-1]))

        return Episodes(joined(parts.support), joined(parts.query))

    def content(self, ids: Tensor) -> object:
        return [self.parts, self.of.content(self._consecutive(ids))]

    def _consecutive(self, ids: Tensor) -> Tensor:
        """Indices (T · parts,) in the other source of the parts of the tasks ``ids`` (T,)."""
        return (ids.unsqueeze(1) * self.parts + torch.arange(self.parts, device=ids.device)).flatten()

"""Regression tasks that are curves: y = f(x; parameters) + noise, with random parameters for each task."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from metarun.config import RangeError, require
from metarun.data.source import Data, Split, Stage, TaskShape, TaskSource, numbered
from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.kinds import REGRESSION
from metarun.rng import bits, derive, normal, uniform

Interval = tuple[float, float]
Function = Callable[[Tensor, Mapping[str, Tensor]], Tensor]
"""Inputs (T, n) and parameters (T, 1) by name → values (T, n)."""


class CurveData(Data):
    """Generated curves of one family; inputs (1,), targets (1,).

    Args:
        name: of the data set.
        seed: of the tasks.
        function: the family.
        bounds: of the uniform distributions of the parameters and of ``x``.
        test_bounds: the same for test tasks; None: as in training.
        noise: standard deviation of the Gaussian noise on every target.
        train, test: shapes of training and test tasks.
        stages: divide the range of ``stage_by`` into this many equal parts, one a stage; None: one stage.
        stage_by: a parameter, or "x".
    """

    def __init__(
        self,
        name: str,
        seed: int,
        function: Function,
        bounds: Mapping[str, Interval],
        test_bounds: Mapping[str, Interval | None],
        noise: float,
        train: TaskShape,
        test: TaskShape,
        stages: int | None,
        stage_by: str,
    ) -> None:
        changed = {key: interval for key, interval in test_bounds.items() if interval is not None}
        for key, interval in [*bounds.items(), *((f"test_{key}", interval) for key, interval in changed.items())]:
            if interval[0] > interval[1]:
                raise RangeError(key, list(interval), "a lower bound, then an upper bound")
        require(noise >= 0, "noise", noise, "0 or more")
        require(stages is None or stages > 0, "stages", stages, "1 or more, or null")
        if stages is not None and stages > 1:
            low, high = bounds[stage_by]
            require(low < high, "stage_by", stage_by, f"a quantity that varies; data.{stage_by} is always {low:g}")
            require(stage_by not in changed, f"test_{stage_by}", changed.get(stage_by), "null, as stages divide its range")
        self.spec = TaskSpec(REGRESSION, (1,), 1, 1, name, parameters=tuple(key for key in bounds if key != "x"))
        self.name, self.seed, self.function, self.noise = name, seed, function, noise
        self.bounds, self.test_bounds = dict(bounds), {**bounds, **changed}
        self.train, self.test, self.parts, self.stage_by = train, test, stages or 1, stage_by

    def stages(self, device: torch.device) -> list[Stage]:
        stages = []
        low, high = self.bounds[self.stage_by]
        width = (high - low) / self.parts
        for i in range(self.parts):
            part = {self.stage_by: (low + i * width, low + (i + 1) * width)} if self.parts > 1 else {}
            name = "".join(f"{key} {a:.2f}-{b:.2f}" for key, (a, b) in part.items()) or self.name
            sources = (self._source(split, i, part, device) for split in ("train", "val", "test"))
            stages.append(Stage(name, *sources))
        return numbered(stages)

    def _source(self, split: Split, stage: int, part: Mapping[str, Interval], device: torch.device) -> "CurveTasks":
        key = derive(self.seed, "tasks", split, stage)
        bounds = self.test_bounds if split == "test" else self.bounds
        shape = self.train if split == "train" else self.test
        return CurveTasks(key, self.function, {**bounds, **part}, self.noise, shape, device)

    def curve(self, shots: int, device: torch.device) -> Episodes:
        key = derive(self.seed, "tasks", "curve")
        source = CurveTasks(key, self.function, self.test_bounds, self.noise, TaskShape(None, shots, queries=1), device)
        # The same curve for any number of shots: of nine, the third largest in its first parameter, so that it is not flat.
        first = next(iter(self.bounds))
        third = source.sample(torch.arange(9)).context[first].flatten().argsort()[-3]
        episodes = source.sample(third.view(1))
        x = torch.linspace(*self.test_bounds["x"], 200, device=device).unsqueeze(0)
        y = self.function(x, episodes.context)
        return Episodes(episodes.support, Examples(x.unsqueeze(-1), y.unsqueeze(-1)), episodes.context)


class CurveTasks(TaskSource):
    """The tasks of one split of one stage; ``context`` has their parameters, (T, 1) each."""

    def __init__(
        self,
        key: int,
        function: Function,
        bounds: Mapping[str, Interval],
        noise: float,
        shape: TaskShape,
        device: torch.device,
    ) -> None:
        self.key, self.function, self.noise, self.shape, self.device = key, function, noise, shape, device
        self.x = bounds["x"]
        self.parameters = {name: interval for name, interval in bounds.items() if name != "x"}

    def sample(self, ids: Tensor) -> Episodes:
        ids = ids.to(self.device, non_blocking=True)
        shots, points = self.shape.shots, self.shape.shots + self.shape.queries
        varying = [name for name, (low, high) in self.parameters.items() if low < high]
        draws = uniform(self.key, ids, len(varying) + points)
        parameters = {name: torch.full((len(ids), 1), low, device=self.device) for name, (low, _) in self.parameters.items()}
        for i, name in enumerate(varying):
            parameters[name] = _between(self.parameters[name], draws[:, i : i + 1])
        x = _between(self.x, draws[:, len(varying) :])
        y = self.function(x, parameters)
        if self.noise > 0:
            y = y + self.noise * normal(derive(self.key, "noise"), ids, points)
        x, y = x.unsqueeze(-1), y.unsqueeze(-1)
        return Episodes(Examples(x[:, :shots], y[:, :shots]), Examples(x[:, shots:], y[:, shots:]), parameters)

    def content(self, ids: Tensor) -> object:
        draws = bits(self.key, ids, 4)  # integers, the same on every device
        return [self.function, self.x, self.parameters, self.noise, self.shape, draws]


def _between(interval: Interval, u: Tensor) -> Tensor:
    low, high = interval
    return low + (high - low) * u

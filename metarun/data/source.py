"""What every data set gives: sources of tasks, for training, validation and test, stage by stage."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from metarun.config import require
from metarun.episodes import Episodes, TaskSpec

Split = str
"""One of "train", "val" and "test"."""


class TaskSource(ABC):
    """An endless numbered sequence of tasks: task ``i`` is a pure function of the source's key and ``i``.

    Attributes:
        count: how many different tasks there are, where they are finite in number; the sequence then comes back to them.
        y: of single examples `in_order`, the label of each, (count,) int64; None: tasks of several examples.
    """

    count: int | None = None
    y: Tensor | None = None

    @abstractmethod
    def sample(self, ids: Tensor) -> Episodes:
        """The tasks numbered ``ids`` (T,) int64, on the source's device."""

    def in_order(self) -> "TaskSource":
        """The same tasks, numbered so that the first ``count`` are all of them; itself where they are without number."""
        return self

    def content(self, ids: Tensor) -> object:
        """What tells the tasks ``ids`` (T,) from any other tasks: equal content means equal tasks.

        Made of tensors, numbers, text, functions and sequences or mappings of them, for `metarun.data.provenance.digest`. It is the
        same on every device; here it is the tasks themselves in half precision, which rounds away how devices differ.
        """
        tasks = self.sample(ids)
        return [part.half() if part.is_floating_point() else part for part in (*tasks.support[:2], *tasks.query[:2])]

    def classes(self, ids: Tensor) -> set[Hashable] | None:
        """Names of the different classes in the tasks ``ids`` (T,); None where there are none, or where they are unknown."""
        return None


class Stage(NamedTuple):
    """A part of the stream: where its tasks come from."""

    name: str
    train: TaskSource
    val: TaskSource
    test: TaskSource


def numbered(stages: Iterable[Stage]) -> list[Stage]:
    """The same stages, each with a name of its own: those of one name are "omniglot", "omniglot #2", "omniglot #3", …."""
    times, made = Counter[str](), []
    for stage in stages:
        times[stage.name] += 1
        again = times[stage.name]
        made.append(stage._replace(name=f"{stage.name} #{again}") if again > 1 else stage)
    return made


@dataclass(frozen=True)
class TaskShape:
    """How large a task is: classes (None: there are none), support examples and queries of each class."""

    ways: int | None
    shots: int
    queries: int

    @property
    def classes(self) -> int:
        """``ways``, where a task must have some.

        Raises:
            ValueError: it has none.
        """
        if self.ways is None:
            raise ValueError("expected tasks with classes, found ways=None")
        return self.ways


class Data(ABC):
    """A data set that can be asked for tasks.

    Attributes:
        spec: what a learner must know of the tasks.
        train, test: shapes of a training task and of a validation or test task.
        seed: of the tasks.
        default_stages: stages that a continual-learning method is given where the configuration says none.
    """

    default_stages: ClassVar[int] = 4
    seed: int
    spec: TaskSpec
    train: TaskShape
    test: TaskShape

    @abstractmethod
    def stages(self, device: torch.device) -> list[Stage]:
        """The stages in their given order, no two of one name; one where the data is not divided. Tensors lie on ``device``."""

    def redraw(self, seed: int) -> None:
        """Have `stages` draw other tasks from the same splits, stages and permutations, which the constructor made."""
        self.seed = seed

    def members(self, split: Split) -> dict[str, list[tuple[int, int]]]:
        """Images of a split of all stages, where they have numbers: an interval [start, stop) for each class, by collection.

        Data sets made from the same images number them alike and name the same collection. Empty where examples are generated.
        """
        return {}

    def curve(self, shots: int, device: torch.device) -> Episodes | None:
        """A task to draw as a curve, if tasks are curves: ``shots`` support points, queries along the whole range."""
        return None


def task_shapes(
    ways: int | None,
    shots: int,
    queries: int,
    train_ways: int | None,
    train_shots: int | None,
    train_queries: int | None,
) -> tuple[TaskShape, TaskShape]:
    """Shapes of a training and of a test task from the config keys of these names; a training key left out is the test's.

    Raises:
        RangeError: a number below 1, or below 2 ways.
    """
    for key, value in {"ways": ways, "train_ways": train_ways}.items():
        require(value is None or value > 1, key, value, "2 or more")
    sizes = {"shots": shots, "queries": queries, "train_shots": train_shots, "train_queries": train_queries}
    for key, value in sizes.items():
        require(value is None or value > 0, key, value, "1 or more")
    test = TaskShape(ways, shots, queries)
    return TaskShape(train_ways or ways, train_shots or shots, train_queries or queries), test

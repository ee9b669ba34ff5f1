"""The interface of data sets: sources of tasks for training, validation and test, stage by stage."""

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
    """An endless numbered sequence of tasks; task ``i`` is a pure function of the source's key and ``i``.

    Attributes:
        count: number of different tasks, if finite; the sequence then repeats them.
        y: for single examples `in_order`, their labels (count,) int64; None: tasks have several examples.
    """

    count: int | None = None
    y: Tensor | None = None

    @abstractmethod
    def sample(self, ids: Tensor) -> Episodes:
        """The tasks numbered ``ids`` (T,) int64, on the source's device."""

    def in_order(self) -> "TaskSource":
        """The same tasks, numbered so that the first ``count`` are all of them; the source itself if their number is infinite."""
        return self

    def content(self, ids: Tensor) -> object:
        """A value that identifies the tasks ``ids`` (T,): equal contents mean equal tasks.

        It consists of tensors, numbers, text, functions, and sequences or mappings of them (see `metarun.data.provenance.digest`),
        and is the same on every device. Here it is the tasks in half precision, which rounds away differences between devices.
        """
        tasks = self.sample(ids)
        return [part.half() if part.is_floating_point() else part for part in (*tasks.support[:2], *tasks.query[:2])]

    def classes(self, ids: Tensor) -> set[Hashable] | None:
        """Identifiers of the distinct classes in the tasks ``ids`` (T,); None if there are no classes, or they are unknown."""
        return None


class Stage(NamedTuple):
    """A stage of the stream: its name and its sources of tasks."""

    name: str
    train: TaskSource
    val: TaskSource
    test: TaskSource


def numbered(stages: Iterable[Stage]) -> list[Stage]:
    """The same stages with unique names: stages of one name become "omniglot", "omniglot #2", "omniglot #3", …."""
    counts, renamed = Counter[str](), []
    for stage in stages:
        counts[stage.name] += 1
        count = counts[stage.name]
        renamed.append(stage._replace(name=f"{stage.name} #{count}") if count > 1 else stage)
    return renamed


@dataclass(frozen=True)
class TaskShape:
    """Size of a task: number of classes (None: no classes), support examples and queries per class."""

    ways: int | None
    shots: int
    queries: int

    @property
    def classes(self) -> int:
        """``ways``, for tasks that must have classes.

        Raises:
            ValueError: the tasks have no classes.
        """
        if self.ways is None:
            raise ValueError("expected tasks with classes, found ways=None")
        return self.ways


class Data(ABC):
    """A data set that yields tasks.

    Attributes:
        spec: what a learner must know about the tasks.
        train, test: shapes of training tasks, and of validation and test tasks.
        seed: of the tasks.
        default_stages: number of stages for a continual-learning method if the configuration sets none.
    """

    default_stages: ClassVar[int] = 4
    seed: int
    spec: TaskSpec
    train: TaskShape
    test: TaskShape

    @abstractmethod
    def stages(self, device: torch.device) -> list[Stage]:
        """The stages in their given order, with unique names; one if the data is not divided. Tensors are on ``device``."""

    def redraw(self, seed: int) -> None:
        """Make `stages` draw other tasks, from the same splits, stages and permutations that the constructor made."""
        self.seed = seed

    def members(self, split: Split) -> dict[str, list[tuple[int, int]]]:
        """The images of a split in all stages, as an index interval [start, stop) for each class, by collection.

        Data sets made from the same images use the same indices and the same collection. Empty if examples are generated.
        """
        return {}

    def curve(self, shots: int, device: torch.device) -> Episodes | None:
        """A task to plot, if tasks are curves, with ``shots`` support points and queries along the whole range; else None."""
        return None


def task_shapes(
    ways: int | None,
    shots: int,
    queries: int,
    train_ways: int | None,
    train_shots: int | None,
    train_queries: int | None,
) -> tuple[TaskShape, TaskShape]:
    """Shapes of training and test tasks from the configuration keys of these names; None for training means as in the test.

    Raises:
        RangeError: a number is below 1, or there are fewer than 2 ways.
    """
    for key, value in {"ways": ways, "train_ways": train_ways}.items():
        require(value is None or value > 1, key, value, "2 or more")
    sizes = {"shots": shots, "queries": queries, "train_shots": train_shots, "train_queries": train_queries}
    for key, value in sizes.items():
        require(value is None or value > 0, key, value, "1 or more")
    test = TaskShape(ways, shots, queries)
    return TaskShape(train_ways or ways, train_shots or shots, train_queries or queries), test

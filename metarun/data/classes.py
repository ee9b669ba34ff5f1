"""Few-shot tasks from labelled examples of any shape: one tensor on the device, tasks by a hash and one gather."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarun.config import RangeError, require
from metarun.data.source import Data, Split, Stage, TaskShape, TaskSource
from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.kinds import CLASSIFICATION
from metarun.rng import bits, choose, derive

Numbers = NDArray[np.int64]
View = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Classes:
    """Classes of examples that are stored class after class: where each begins and how many it has, (classes,) int64."""

    start: Tensor
    size: Tensor

    def __len__(self) -> int:
        return len(self.start)

    @classmethod
    def of_sizes(cls, sizes: Sequence[int]) -> "Classes":
        """Classes of these sizes, one after another from the first example on."""
        size = torch.tensor(sizes, dtype=torch.int64)
        return cls(size.cumsum(0) - size, size)

    def some(self, members: Numbers) -> "Classes":
        """Those numbered ``members``."""
        numbers = torch.from_numpy(np.asarray(members, np.int64))
        return Classes(self.start[numbers], self.size[numbers])

    def check(self, shape: TaskShape, where: str, key: str = "") -> None:
        """Raise a `RangeError` where these classes cannot fill a task of this shape; ``key`` is "" or "train_"."""
        if shape.ways and shape.ways > len(self):
            raise RangeError(f"data.{key}ways", shape.ways, f"at most the {len(self)} classes of the {where}")
        fewest = int(self.size.min())
        if shape.shots + shape.queries > fewest:
            raise RangeError(
                f"data.{key}shots + data.{key}queries",
                shape.shots + shape.queries,
                f"at most the {fewest} examples of a class in the {where}",
            )


class ClassData(Data):
    """Few-shot classification on a set of examples whose classes are divided among stages and splits.

    Args:
        name: of the data set.
        seed: of the tasks.
        examples: (examples, *input_shape), class after class. Bytes are scaled to [0, 1], other numbers are taken as they are.
        classes: all of them.
        parts: numbers of the classes of each split of each stage, by the stage's name; `stage_splits` makes them.
        train, test: shapes of a training task and of a test task.
        views: what a stage does to its examples, by the stage's name, see `ClassTasks`; None: nothing.
        test_groups: sizes of the runs of test classes from which the classes of one test task come together; None: any classes of
            the split.
        collection: name of ``examples``, the same for all data sets made from them in this order; None: ``name``.

    Raises:
        RangeError: a split cannot fill its tasks.
    """

    def __init__(
        self,
        name: str,
        seed: int,
        examples: Tensor,
        classes: Classes,
        parts: Mapping[str, Mapping[Split, Numbers]],
        train: TaskShape,
        test: TaskShape,
        *,
        views: Mapping[str, View] | None = None,
        test_groups: Sequence[int] | None = None,
        collection: str | None = None,
    ) -> None:
        if test_groups is not None and test.classes > min(test_groups):
            raise RangeError("data.ways", test.ways, f"at most the {min(test_groups)} classes of the smallest group of the test")
        self.collection, self.views, self.test_groups = collection or name, views or {}, test_groups
        self.name, self.seed, self.examples, self.train, self.test = name, seed, examples, train, test
        self.parts = {
            stage: {split: self.variants(split, classes.some(members)) for split, members in of.items()}
            for stage, of in parts.items()
        }
        for stage, of in self.parts.items():
            for split, members in of.items():
                own = split == "train" and train != test
                where = f"{split} split" + (f" of stage {stage}" if len(parts) > 1 else "")
                members.check(self.shape(split), where, "train_" if own else "")
        in_training = sum(len(of["train"]) for of in self.parts.values())
        self.spec = TaskSpec(CLASSIFICATION, tuple(examples.shape[1:]), test.classes, train.classes, name, in_training)

    def members(self, split: Split) -> dict[str, list[tuple[int, int]]]:
        count = len(self.examples)  # a variant of a class has the numbers of the class
        starts = [(of[split].start % count, of[split].size) for of in self.parts.values()]
        return {self.collection: [(a, a + n) for start, size in starts for a, n in zip(start.tolist(), size.tolist(), strict=True)]}

    @property
    def splits(self) -> dict[Split, Classes]:
        """The classes of each split of the first stage."""
        return next(iter(self.parts.values()))

    def shape(self, split: Split) -> TaskShape:
        """The shape of a task of ``split``."""
        return self.train if split == "train" else self.test

    def stages(self, device: torch.device, first_class: int = 0) -> list[Stage]:
        """As in `Data`; ``first_class`` is the number that the first class of training goes by in the tasks' context."""
        examples = self.stored()
        if fits(examples, device):
            examples = examples.to(device)
        made, first = [], first_class
        for number, (name, of) in enumerate(self.parts.items()):
            common = {"view": self.views.get(name), "device": device, "first_class": first}
            keys = {split: derive(self.seed, "tasks", split, number) for split in ("train", "val", "test")}
            sources = (self.source(split, key, examples, of[split], **common) for split, key in keys.items())
            made.append(Stage(name, *sources))
            first += len(of["train"])
        return made

    def source(self, split: Split, key: int, examples: Tensor, classes: Classes, **common: Any) -> "ClassTasks":
        """The tasks of a split; ``common`` are keywords of `ClassTasks`."""
        return ClassTasks(key, examples, classes, self.shape(split), groups=self.groups(split), **common)

    def groups(self, split: Split) -> Classes | None:
        """The groups of the split's classes of which a task takes one; None: it takes any classes."""
        return None if split != "test" or self.test_groups is None else Classes.of_sizes(self.test_groups)

    def variants(self, split: Split, classes: Classes) -> Classes:
        """The classes of a split with those that are made of them (images: rotated ones), which lie behind all in `stored`."""
        return classes

    def stored(self) -> Tensor:
        """The examples with those that are made of them."""
        return self.examples


def stage_splits(
    classes: int, stages: int, seed: int, blocks: Sequence[Numbers] | None = None, name: str = "group"
) -> dict[str, dict[Split, Numbers]]:
    """All classes divided among stages, and in each of a stage's blocks a fifth for validation and a fifth for the test.

    Args:
        classes: how many there are.
        stages: how many to make.
        seed: of what is drawn.
        blocks: numbers of the classes of each block (an alphabet, a superclass), in order: blocks stay whole and stages are
            runs of them. None: a stage is one block of classes at random.
        name: what a block is called.

    Raises:
        RangeError: there are fewer blocks than stages.
    """
    most = classes if blocks is None else len(blocks)
    require(0 < stages <= most, "stages", stages, f"1 to {most}, or null")
    random = np.random.default_rng(derive(seed, "stages"))
    if blocks is None:
        blocks = np.array_split(random.permutation(classes), stages)
    made: dict[str, dict[Split, Numbers]] = {}
    for run in np.array_split(np.arange(len(blocks)), stages):
        parts: dict[Split, list[Numbers]] = {"train": [], "val": [], "test": []}
        for members in (random.permutation(blocks[i]) for i in run):
            held = len(members) // 5
            for split, some in zip(parts, np.split(members, [len(members) - 2 * held, len(members) - held]), strict=True):
                parts[split].append(some)
        first, last = run[0] + 1, run[-1] + 1
        stage = f"{name} {first}" if first == last else f"{name} {first}-{last}"
        made[stage] = {split: np.concatenate(some) for split, some in parts.items()}
    return made


class ClassTasks(TaskSource):
    """N-way tasks: classes without replacement, then examples of each without replacement, class by class.

    ``context`` holds the classes' numbers, (T, ways): in training no two classes of any stage have the same.

    Args:
        key: of the random draws.
        examples: (examples, *input_shape), class after class; bytes are scaled to [0, 1].
        classes: those of this split.
        shape: of a task.
        view: applied to the examples (n, *input_shape) of every task: a permutation of features, a rotation.
        device: where tasks are wanted, if not where ``examples`` are.
        groups: runs of ``classes``; a task takes all its classes from one of them, chosen at random.
        first_class: the number that the first of ``classes`` goes by in the context.
    """

    def __init__(
        self,
        key: int,
        examples: Tensor,
        classes: Classes,
        shape: TaskShape,
        *,
        view: View | None = None,
        device: torch.device | None = None,
        groups: Classes | None = None,
        first_class: int = 0,
    ) -> None:
        self.device = device or examples.device
        self.groups = groups and Classes(groups.start.to(examples.device), groups.size.to(examples.device))
        self.key, self.examples, self.shape, self.view, self.first_class = key, examples, shape, view, first_class
        self.start, self.size = classes.start.to(examples.device), classes.size.to(examples.device)
        self.ways = shape.classes

    def sample(self, ids: Tensor) -> Episodes:
        ways, shots, queries = self.ways, self.shape.shots, self.shape.queries
        ids = ids.to(self.examples.device, non_blocking=True)
        chosen, index = self._draw(ids)
        change = self.augmentation(ids, index)
        labels = torch.arange(ways, device=self.device).unsqueeze(-1)
        support, query = (
            Examples(self._part(index, change, part), labels.expand(*index.shape[:2], width).flatten(1), ways)
            for part, width in ((slice(None, shots), shots), (slice(shots, None), queries))
        )
        return Episodes(support, query, {"classes": (chosen + self.first_class).to(self.device)})

    def content(self, ids: Tensor) -> list[object]:
        _, index = self._draw(ids.to(self.examples.device))
        # What is stored is the same on every device; what a view makes of it may not be.
        return [self.examples[index.flatten()], index.shape, self.shape.shots, self.view]

    def classes(self, ids: Tensor) -> set[Hashable]:
        chosen, _ = self._draw(ids.to(self.examples.device))
        return {(self.examples.data_ptr(), start) for start in self.start[chosen.unique()].tolist()}

    def variant(self, index: Tensor, draws: Tensor) -> Tensor:
        """Numbers of the examples (T, ways, n) after a change that each class draws (T, ways) in [0, 2**31); here there is none."""
        return index

    def augmentation(self, ids: Tensor, index: Tensor) -> Tensor | None:
        """A draw in [0, 2**31) for each example, of the shape of ``index``, for `read`; None: examples are not changed."""
        return None

    def read(self, index: Tensor, change: Tensor | None) -> Tensor:
        """The examples with numbers ``index`` (m,), changed by the draws ``change`` (m,), on the device of the tasks."""
        return take(self.examples, index, self.device, self.view)

    def _draw(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Of the tasks ``ids`` (T,): places of their classes (T, ways), and of their examples (T, ways, shots + queries)."""
        ways, per_class = self.ways, self.shape.shots + self.shape.queries
        draws = bits(self.key, ids, ways * (2 + per_class))
        if self.groups is None:
            chosen = choose(draws[:, :ways], len(self.start))
        else:
            group = (bits(derive(self.key, "group"), ids, 1)[:, 0] * len(self.groups)) >> 31
            chosen = self.groups.start[group].unsqueeze(1) + choose(draws[:, :ways], self.groups.size[group])
        within = choose(draws[:, 2 * ways :].view(-1, ways, per_class), self.size[chosen])
        return chosen, self.variant(self.start[chosen].unsqueeze(-1) + within, draws[:, ways : 2 * ways])

    def _part(self, index: Tensor, change: Tensor | None, part: slice) -> Tensor:
        """(T, ways, n) → the examples of ``part``, (T, ways · n', *input_shape)."""
        x = self.read(index[..., part].flatten(), None if change is None else change[..., part].flatten())
        return x.view(len(index), -1, *x.shape[1:])


def take(
    examples: Tensor, index: Tensor, device: torch.device, view: View | None, change: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """The examples (n, …) at ``index`` (m,), on ``device``.

    ``change`` is applied to them where and as they are stored. Bytes are then scaled to [0, 1], and ``view`` is applied last.
    """
    found = examples.index_select(0, index)
    if change is not None:
        found = change(found)
    found = found.to(device)
    if found.dtype == torch.uint8:
        found = found * (1 / 255)
    return found if view is None else view(found)


def fits(examples: Tensor, device: torch.device) -> bool:
    """Whether all examples may be on the device, with half of what is free there left for training."""
    if device.type != "cuda":
        return True
    return examples.numel() * 2 < torch.cuda.mem_get_info(device)[0]

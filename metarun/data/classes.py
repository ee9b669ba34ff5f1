"""Few-shot tasks from labelled examples of any shape, kept in one tensor; a task is drawn by a hash and one gather."""

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
    """Classes whose examples are stored contiguously: first index and number of examples of each, (classes,) int64."""

    start: Tensor
    size: Tensor

    def __len__(self) -> int:
        return len(self.start)

    @classmethod
    def of_sizes(cls, sizes: Sequence[int]) -> "Classes":
        """Consecutive classes of these sizes, starting at example 0."""
        size = torch.tensor(sizes, dtype=torch.int64)
        return cls(size.cumsum(0) - size, size)

    def some(self, members: Numbers) -> "Classes":
        """The classes with indices ``members``."""
        numbers = torch.from_numpy(np.asarray(members, np.int64))
        return Classes(self.start[numbers], self.size[numbers])

    def check(self, shape: TaskShape, where: str, key: str = "") -> None:
        """Raise a `RangeError` if these classes are too few or too small for a task of ``shape``; ``key`` is "" or "train_"."""
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
        examples: (examples, *input_shape), ordered by class. Bytes are scaled to [0, 1], other values are left as they are.
        classes: all classes.
        parts: indices of the classes of each split of each stage, by stage name, as from `stage_splits`.
        train, test: shapes of training and test tasks.
        views: transformations of the stages' examples, by stage name, see `ClassTasks`; None: none.
        test_groups: sizes of groups of consecutive test classes; a test task takes all its classes from one group. None: a task
            takes any classes of the split.
        collection: name of ``examples``, shared by all data sets made from them in this order; None: ``name``.

    Raises:
        RangeError: a split is too small for its tasks.
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
        count = len(self.examples)  # variants of a class map to the same examples
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
        """As in `Data`; ``first_class`` is the index given to the first training class in the tasks' context."""
        examples = self.stored()
        if fits(examples, device):
            examples = examples.to(device)
        stages, first = [], first_class
        for number, (name, of) in enumerate(self.parts.items()):
            common = {"view": self.views.get(name), "device": device, "first_class": first}
            keys = {split: derive(self.seed, "tasks", split, number) for split in ("train", "val", "test")}
            sources = (self.source(split, key, examples, of[split], **common) for split, key in keys.items())
            stages.append(Stage(name, *sources))
            first += len(of["train"])
        return stages

    def source(self, split: Split, key: int, examples: Tensor, classes: Classes, **common: Any) -> "ClassTasks":
        """The tasks of a split; ``common`` are keywords of `ClassTasks`."""
        return ClassTasks(key, examples, classes, self.shape(split), groups=self.groups(split), **common)

    def groups(self, split: Split) -> Classes | None:
        """Groups of the split's classes; a task takes all its classes from one of them. None: it takes any classes."""
        return None if split != "test" or self.test_groups is None else Classes.of_sizes(self.test_groups)

    def variants(self, split: Split, classes: Classes) -> Classes:
        """The classes of a split with those derived from them (such as rotated images), which follow all others in `stored`."""
        return classes

    def stored(self) -> Tensor:
        """The examples, followed by those derived from them."""
        return self.examples


def check_shares(shares: tuple[float, float, float]) -> None:
    """Raise a `RangeError` unless ``shares`` divide classes into three splits."""
    require(min(shares) >= 0 and abs(sum(shares) - 1) < 1e-6, "split", list(shares), "three shares that sum to 1")


def random_split(classes: int, shares: tuple[float, float, float], seed: int, draw: str = "class split") -> dict[Split, Numbers]:
    """Indices of the classes of each split, at random; shares are rounded to whole classes. ``draw`` names the random draw.

    Raises:
        RangeError: the shares are negative or do not sum to 1.
    """
    check_shares(shares)
    order = np.random.default_rng(derive(seed, draw)).permutation(classes)
    ends = [round(shares[0] * classes), round((shares[0] + shares[1]) * classes)]
    return dict(zip(("train", "val", "test"), np.split(order, ends), strict=True))


def stage_splits(
    classes: int, stages: int, seed: int, blocks: Sequence[Numbers] | None = None, name: str = "group"
) -> dict[str, dict[Split, Numbers]]:
    """Divide all classes among stages; of each block of a stage, a fifth is for validation and a fifth for the test.

    Args:
        classes: number of classes.
        stages: number of stages.
        seed: of the random draws.
        blocks: indices of the classes of each block (an alphabet, a superclass), in order; a stage consists of consecutive whole
            blocks. None: a stage is a random set of classes.
        name: for a block, in the stages' names.

    Raises:
        RangeError: there are fewer blocks than stages.
    """
    most = classes if blocks is None else len(blocks)
    require(0 < stages <= most, "stages", stages, f"1 to {most}, or null")
    random = np.random.default_rng(derive(seed, "stages"))
    if blocks is None:
        blocks = np.array_split(random.permutation(classes), stages)
    splits: dict[str, dict[Split, Numbers]] = {}
    for run in np.array_split(np.arange(len(blocks)), stages):
        parts: dict[Split, list[Numbers]] = {"train": [], "val": [], "test": []}
        for members in (random.permutation(blocks[i]) for i in run):
            held = len(members) // 5
            for split, share in zip(parts, np.split(members, [len(members) - 2 * held, len(members) - held]), strict=True):
                parts[split].append(share)
        first, last = run[0] + 1, run[-1] + 1
        stage = f"{name} {first}" if first == last else f"{name} {first}-{last}"
        splits[stage] = {split: np.concatenate(shares) for split, shares in parts.items()}
    return splits


class ClassTasks(TaskSource):
    """N-way tasks: classes without replacement, then examples of each without replacement, class by class.

    ``context`` has the indices of the classes, (T, ways), unique among the training classes of all stages.

    Args:
        key: of the random draws.
        examples: (examples, *input_shape), ordered by class; bytes are scaled to [0, 1].
        classes: the classes of this split.
        shape: of a task.
        view: applied to the examples (n, *input_shape) of every task: a permutation of features, a rotation.
        device: of the tasks; None: that of ``examples``.
        groups: groups of consecutive ``classes``; a task takes all its classes from one of them, chosen at random.
        first_class: index of the first of ``classes`` in the context.
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
        # Stored examples are the same on every device; the output of a view may not be.
        return [self.examples[index.flatten()], index.shape, self.shape.shots, self.view]

    def classes(self, ids: Tensor) -> set[Hashable]:
        chosen, _ = self._draw(ids.to(self.examples.device))
        return {(self.examples.data_ptr(), start) for start in self.start[chosen.unique()].tolist()}

    def variant(self, index: Tensor, draws: Tensor) -> Tensor:
        """Indices of the examples (T, ways, n) after a change by the classes' draws (T, ways) in [0, 2**31); here unchanged."""
        return index

    def augmentation(self, ids: Tensor, index: Tensor) -> Tensor | None:
        """Draws in [0, 2**31), one per example, of the shape of ``index``, for `read`; None: examples are not augmented."""
        return None

    def read(self, index: Tensor, change: Tensor | None) -> Tensor:
        """The examples at ``index`` (m,), augmented by the draws ``change`` (m,), on the device of the tasks."""
        return take(self.examples, index, self.device, self.view)

    def _draw(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of the classes (T, ways) and of the examples (T, ways, shots + queries) of the tasks ``ids`` (T,)."""
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

    ``change`` is applied on the device and in the type in which they are stored; then bytes are scaled to [0, 1], and ``view`` is
    applied last.
    """
    x = examples.index_select(0, index)
    if change is not None:
        x = change(x)
    x = x.to(device)
    if x.dtype == torch.uint8:
        x = x * (1 / 255)
    return x if view is None else view(x)


def fits(examples: Tensor, device: torch.device) -> bool:
    """Whether all examples fit in half of the device's free memory; the rest is for training."""
    if device.type != "cuda":
        return True
    return examples.numel() * 2 < torch.cuda.mem_get_info(device)[0]

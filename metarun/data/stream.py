"""Streams of single labelled examples for continual learning; an example is a task with one query and no support set."""

from collections.abc import Hashable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from metarun.data.classes import ClassData, Classes, Numbers, View, fits, take
from metarun.data.images import ImageData
from metarun.data.source import Split, Stage, TaskShape, TaskSource
from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.kinds import CLASSIFICATION
from metarun.rng import bits, derive

Scenario = Literal["task", "domain", "class"]
"""Continual-learning scenario (van de Ven, Tuytelaars and Tolias, Nature Machine Intelligence 2022).

task: each stage has its own outputs, and the stage of an example is known, so only the outputs of its stage are active. domain: all
stages share the same outputs. class: each stage has its own outputs, and all outputs are always active.
"""

Sampling = Literal["epochs", "uniform"]
"""Order of training examples: repeated passes over a stage, each in random order, or independent uniform draws."""


class ClassStream(ClassData):
    """Examples whose splits all have the same classes, for few-shot tasks as in `ClassData` or as a stream of examples.

    Args:
        name, seed, examples, classes, parts, train, test, common: see `ClassData`; the classes of a stage have the same order in
            each of its splits.
        scenario: see `Scenario`; None: few-shot tasks.
        sampling: order of a stream's training examples, see `Sampling`.
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
        scenario: Scenario | None = None,
        sampling: Sampling = "epochs",
        **common: Any,
    ) -> None:
        self.scenario, self.sampling = scenario, sampling
        if scenario is None:
            super().__init__(name, seed, examples, classes, parts, train, test, **common)
            return
        widths = [len(of["train"]) for of in parts.values()]
        one = TaskShape(min(widths), shots=0, queries=1)
        super().__init__(name, seed, examples, classes, parts, one, one, **common)
        self.train = self.test = TaskShape(sum(widths) if scenario == "class" else max(widths), shots=0, queries=1)
        outputs = max(widths) if scenario == "domain" else sum(widths)
        self.spec = TaskSpec(CLASSIFICATION, tuple(examples.shape[1:]), outputs, outputs, name, examples=True)

    def stages(self, device: torch.device, first_class: int = 0) -> list[Stage]:
        if self.scenario is None:
            return super().stages(device, first_class)
        examples = self.examples.to(device) if fits(self.examples, device) else self.examples
        outputs, first, stages = self.spec.outputs, 0, []
        for number, (name, of) in enumerate(self.parts.items()):
            labels = torch.arange(len(of["train"])) + first
            active = torch.zeros(outputs, dtype=torch.bool).index_fill_(0, labels, True) if self.scenario == "task" else None
            # Stages with the same images, such as permutations, are tested on them in the same order.
            keys = {split: derive(self.seed, "examples", split) for split in ("val", "test")}
            keys = {"train": derive(self.seed, "examples", "train", number), **keys}
            sources = [
                ClassExamples(
                    key,
                    examples,
                    of[split],
                    labels,
                    outputs,
                    active,
                    self.sampling if split == "train" else "balanced",
                    self.views.get(name),
                    device,
                )
                for split, key in keys.items()
            ]
            stages.append(Stage(name, *sources))
            first += 0 if self.scenario == "domain" else len(labels)
        return stages


class ImageStream(ClassStream, ImageData):
    """A `ClassStream` of images."""


class ClassExamples(TaskSource):
    """The examples of some classes, one at a time.

    Args:
        key: of the random draws.
        examples: (examples, *input_shape), ordered by class; bytes are scaled to [0, 1].
        classes: the classes of this split.
        labels: of each of the classes, (classes,) int64.
        outputs: number of outputs of the learner.
        active: mask of the outputs that an example may belong to, (outputs,) bool; None: all.
        order: see `Sampling`; "given": ordered by class; "balanced": every prefix has the classes in proportion, see
            `interleaved`.
        view: applied to the examples (n, *input_shape).
        device: of the sampled examples.
    """

    y: Tensor

    def __init__(
        self,
        key: int,
        examples: Tensor,
        classes: Classes,
        labels: Tensor,
        outputs: int,
        active: Tensor | None,
        order: Sampling | Literal["given", "balanced"],
        view: View | None,
        device: torch.device,
    ) -> None:
        self.key, self.examples, self.outputs, self.order, self.view, self.device = key, examples, outputs, order, view, device
        self.classes_of, self.labels, self.active = classes, labels, active
        first = classes.size.cumsum(0) - classes.size
        self.count: int = int(classes.size.sum())
        index = torch.arange(self.count) + (classes.start - first).repeat_interleave(classes.size)
        y = labels.repeat_interleave(classes.size)
        if order == "balanced":
            places = interleaved(key, classes.size)
            index, y = index[places], y[places]
        self.index, self.y = index.to(examples.device), y.to(device)
        self.context = {} if active is None else {"active": active.to(device)}
        self._epochs: dict[int, Tensor] = {}

    def in_order(self) -> "ClassExamples":
        if self.order == "balanced":
            return self
        shared = (self.key, self.examples, self.classes_of, self.labels, self.outputs, self.active)
        return ClassExamples(*shared, "given", self.view, self.device)

    def sample(self, ids: Tensor) -> Episodes:
        place = self._places(ids)
        x = take(self.examples, self.index[place], self.device, self.view).unsqueeze(1)
        y = self.y[place.to(self.device, non_blocking=True)].unsqueeze(1)
        context = {name: value.expand(len(ids), -1) for name, value in self.context.items()}
        return Episodes(Examples(x[:, :0], y[:, :0], self.outputs), Examples(x, y, self.outputs), context)

    def content(self, ids: Tensor) -> object:
        place = self._places(ids)
        return [self.examples[self.index[place]], self.y[place.to(self.device)], self.outputs, self.active, self.view]

    def classes(self, ids: Tensor) -> set[Hashable]:
        index = self.index[self._places(ids)].cpu()
        # Classes may be stored in any order: an example belongs to the class with the largest start not beyond it.
        start = self.classes_of.start.sort().values
        starts = start[torch.bucketize(index, start, right=True) - 1]
        return {(self.examples.data_ptr(), number) for number in starts.unique().tolist()}

    def _places(self, ids: Tensor) -> Tensor:
        """Positions of the examples ``ids`` (T,) among those of this split."""
        device = self.examples.device
        if self.order in ("given", "balanced"):
            return (ids % self.count).to(device, non_blocking=True)
        if self.order == "uniform":
            return (bits(self.key, ids.to(device, non_blocking=True), 1)[:, 0] * self.count) >> 31
        first, last = int(ids.min()) // self.count, int(ids.max()) // self.count
        self._epochs = {epoch: self._shuffled(epoch) for epoch in range(first, last + 1)}
        orders = torch.stack(list(self._epochs.values()))
        epoch, place = (part.to(device, non_blocking=True) for part in (ids // self.count - first, ids % self.count))
        return orders[epoch, place]

    def _shuffled(self, epoch: int) -> Tensor:
        """All positions in the order of an epoch, a pure function of its number; orders used by the last call are cached."""
        cached = self._epochs.get(epoch)
        if cached is not None:
            return cached
        every = torch.arange(self.count, device=self.examples.device)
        return bits(derive(self.key, "epoch", epoch), every, 1)[:, 0].argsort(stable=True)


def interleaved(key: int, sizes: Tensor) -> Tensor:
    """An order of examples, stored by class, in which every prefix has the classes in proportion to their sizes.

    Each class is shuffled, since archives may be sorted within a class too (the first half of MNIST's test images is easier than
    the second), and spread evenly over the whole order. A class with m of the N images has n m / N of the first n, within one (or
    two if class sizes differ widely).

    Args:
        key: of the shuffling; the order is the same on every device.
        sizes: number of images of each class, (classes,) int64.

    Returns:
        Indices of the images in the stored order, (images,) int64.
    """
    ids, classes = torch.arange(int(sizes.sum())), torch.arange(len(sizes))
    shuffled = (classes.repeat_interleave(sizes) << 31 | bits(key, ids, 1)[:, 0]).argsort(stable=True)
    within = ids - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    start = (classes + 0.5) / len(sizes)  # classes of equal size then alternate
    at = (within + start.repeat_interleave(sizes).double()) / sizes.repeat_interleave(sizes)
    return shuffled[at.argsort(stable=True)]

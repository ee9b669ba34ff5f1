"""The unit that everything passes on: a batch of T tasks, each a support set and a query set, in tensors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import NamedTuple

import torch
from torch import Tensor

from metarun.kinds import Kind


class Examples(NamedTuple):
    """Inputs ``x`` (T, n, *input_shape); labels ``y`` (T, n) int64 below ``ways``, or targets (T, n, d) float (``ways`` None).

    ``ways`` is a plain int, so that nobody has to ask a tensor on the device for its maximum.
    """

    x: Tensor
    y: Tensor
    ways: int | None = None

    def tasks(self, part: slice | Tensor) -> "Examples":
        """Those of some of the tasks."""
        return Examples(self.x[part], self.y[part], self.ways)

    def one_hot(self, dtype: torch.dtype) -> Tensor:
        """Labels as (T, n, ways).

        Raises:
            ValueError: these are targets.
        """
        if self.ways is None:
            raise ValueError("expected labels of classes, found targets")
        return one_hot(self.y, self.ways, dtype)

    def targets(self, dtype: torch.dtype) -> Tensor:
        """Labels one-hot, (T, n, ways), or targets as they are, (T, n, d)."""
        return self.y if self.ways is None else self.one_hot(dtype)


def one_hot(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """``labels`` (…) below ``classes`` → (…, classes), without waiting for the device to check them, as `F.one_hot` does."""
    return (labels.unsqueeze(-1) == torch.arange(classes, device=labels.device)).to(dtype)


@dataclass(frozen=True)
class Episodes:
    """T tasks of one shape. Every tensor has the task axis first.

    ``context`` holds what only some learners need, task axis first too: a task's true parameters, global class ids, which outputs
    are ``active`` (T, outputs) for it, the ``weight`` (T,) of its loss in the mean over tasks, of mean 1.

    A plain example is a task too: one query and an empty support set.
    """

    support: Examples
    query: Examples
    context: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.query.x.shape[0]

    def split(self, size: int | None) -> Iterator["Episodes"]:
        """These tasks in pieces of at most ``size`` tasks (None: in one piece)."""
        if size is None or size >= len(self):
            yield self
            return
        # One call a tensor, not one a tensor and piece: a trainer of tiny networks cuts up 64 updates' tasks at once.
        support, query = (zip(part.x.split(size), part.y.split(size), strict=True) for part in (self.support, self.query))
        context = zip(*(value.split(size) for value in self.context.values()), strict=True) if self.context else repeat(())
        for own, asked, known in zip(support, query, context, strict=False):
            examples = Examples(*own, self.support.ways), Examples(*asked, self.query.ways)
            yield Episodes(*examples, dict(zip(self.context, known, strict=True)))

    def pick(self, part: slice | Tensor) -> "Episodes":
        """Some of the tasks, by a slice or by their places (n,)."""
        context = {key: value[part] for key, value in self.context.items()}
        return Episodes(self.support.tasks(part), self.query.tasks(part), context)


def join(parts: Sequence[Episodes]) -> Episodes:
    """The tasks of all ``parts``, which are of one shape and have the same context."""

    def joined(examples: Sequence[Examples]) -> Examples:
        return Examples(torch.cat([e.x for e in examples]), torch.cat([e.y for e in examples]), examples[0].ways)

    context = {key: torch.cat([part.context[key] for part in parts]) for key in parts[0].context}
    return Episodes(joined([part.support for part in parts]), joined([part.query for part in parts]), context)


@dataclass(frozen=True)
class TaskSpec:
    """What a learner must know of its tasks before it sees one.

    Attributes:
        kind: of task: `metarun.kinds.REGRESSION`, `CLASSIFICATION`, or one of your own.
        input_shape: shape of one input.
        outputs: classes of a test task, or target dimensions.
        train_outputs: classes of a training task where they differ (ProtoNet's 60), else the same.
        name: of the data, for messages.
        train_classes: classes that training tasks of all stages draw theirs from; a task's `context["classes"]` numbers them.
        parts: of a task of regression: functions that follow one another in its examples, as classes do in other tasks.
        examples: whether tasks are single examples without a support set, of the same classes in all tasks.
        parameters: names under which `context` tells a task's true parameters, where it has some.
    """

    kind: Kind
    input_shape: tuple[int, ...]
    outputs: int
    train_outputs: int
    name: str
    train_classes: int | None = None
    parameters: tuple[str, ...] = ()
    examples: bool = False
    parts: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.kind, Kind):
            raise TypeError(f"kind={self.kind!r}: expected a Kind, as metarun.kinds.REGRESSION")

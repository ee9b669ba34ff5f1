"""The unit that everything passes on: a batch of T tasks, each a support set and a query set, in tensors."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

Kind = Literal["regression", "classification"]


class Examples(NamedTuple):
    """Inputs ``x`` (T, n, *input_shape); labels ``y`` (T, n) int64 below ``ways``, or targets (T, n, d) float (``ways`` None).

    ``ways`` is a plain int, so that nobody has to ask a tensor on the device for its maximum.
    """

    x: Tensor
    y: Tensor
    ways: int | None = None

    def tasks(self, part: slice) -> "Examples":
        """Those of some of the tasks."""
        return Examples(self.x[part], self.y[part], self.ways)


@dataclass(frozen=True)
class Episodes:
    """T tasks of one shape. Every tensor has the task axis first.

    ``context`` holds what only some learners need, task axis first too: a task's true parameters, global class ids, its stage.
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
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            context = {key: value[part] for key, value in self.context.items()}
            yield Episodes(self.support.tasks(part), self.query.tasks(part), context)


@dataclass(frozen=True)
class TaskSpec:
    """What a learner must know of its tasks before it sees one.

    Attributes:
        kind: regression or classification.
        input_shape: shape of one input.
        outputs: classes of a test task, or target dimensions.
        train_outputs: classes of a training task where they differ (ProtoNet's 60), else the same.
        name: of the data, for messages.
        train_classes: classes that training tasks of all stages draw theirs from; a task's `context["classes"]` numbers them.
        parameters: names under which `context` tells a task's true parameters, where it has some.
    """

    kind: Kind
    input_shape: tuple[int, ...]
    outputs: int
    train_outputs: int
    name: str
    train_classes: int | None = None
    parameters: tuple[str, ...] = ()

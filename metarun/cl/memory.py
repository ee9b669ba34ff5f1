"""A memory of tasks (or of examples: one query and no support set), stored in tensors."""

from typing import Any

import torch
from torch import Tensor

from metarun.cl.method import ContinualMethod
from metarun.config import require
from metarun.data.source import Stage
from metarun.episodes import Episodes, Examples, join


class Memory:
    """Stored tasks: some of each stage, or a reservoir over all. Both are filled by batched operations, not task by task."""

    def __init__(self) -> None:
        self.stored: Episodes | None = None
        """The first `size` of these tasks are the content; a reservoir has one slot more."""
        self.size = 0
        self.seen = 0
        """Number of tasks offered to the reservoir."""

    def __len__(self) -> int:
        return self.size

    def add_some(self, stage: Stage, count: int) -> None:
        """Store ``count`` of a stage's training tasks, or all if there are fewer; single examples are balanced over classes."""
        source = stage.train.in_order()
        ids = torch.arange(count)
        if source.count is not None:
            ids = in_turn(torch.zeros(source.count) if source.y is None else source.y.cpu())[:count]
        new = source.sample(ids)
        self.stored = new if self.stored is None else join([self.stored, new])
        self.size = len(self.stored)

    def offer(self, episodes: Episodes, capacity: int) -> None:
        """Reservoir sampling (Vitter's algorithm R): every task offered so far is stored with the same probability."""
        device = episodes.query.x.device
        number = torch.arange(len(episodes), device=device)
        position = number + self.seen
        drawn = (torch.rand(len(episodes), device=device, dtype=torch.float64) * (position + 1)).long()
        slot = torch.where(position < capacity, position, drawn).clamp(max=capacity)
        # Of several tasks with the same slot the last one stays, as sequential insertion would have it. Rejected tasks go to an
        # extra slot, which is never read.
        last = torch.zeros(capacity + 1, dtype=torch.int64, device=device).scatter_reduce_(0, slot, number, "amax")
        slot = slot.where(last[slot] == number, capacity)
        if self.stored is None:
            self.stored = episodes.pick(torch.zeros(capacity + 1, dtype=torch.int64, device=device))
        new = tensors(episodes)
        for name, value in tensors(self.stored).items():
            value[slot] = new[name]
        self.seen += len(episodes)
        self.size = min(self.seen, capacity)

    def draw(self, count: int) -> Episodes:
        """``count`` stored tasks, drawn uniformly with replacement."""
        if self.stored is None:
            raise ValueError("the memory is empty")
        return self.stored.pick(torch.randint(self.size, (count,), device=self.stored.query.x.device))

    def state_dict(self) -> dict[str, Any]:
        """The content and the counts, as tensors and plain values."""
        counts = {"size": self.size, "seen": self.seen}
        return counts if self.stored is None else counts | {"ways": self.stored.query.ways, "tensors": tensors(self.stored)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Restore the output of `state_dict`."""
        self.size, self.seen, self.stored = state["size"], state["seen"], None
        if "tensors" in state:
            values = {name: value.to(device) for name, value in state["tensors"].items()}
            support, query = (
                Examples(values.pop(f"{part}.x"), values.pop(f"{part}.y"), state["ways"]) for part in ("support", "query")
            )
            self.stored = Episodes(support, query, {name.removeprefix("context."): value for name, value in values.items()})


class RehearsalMethod(ContinualMethod):
    """A method with a memory of tasks, which is saved in its checkpoints.

    Args:
        size: number of tasks to store, per stage or in total.
        draw: number of stored tasks in an update; None: as many as new tasks.
    """

    def __init__(self, size: int, draw: int | None) -> None:
        require(size > 0, "size", size, "1 or more")
        require(draw is None or draw > 0, "draw", draw, "1 or more, or null")
        self.size, self.number = size, draw
        self.memory = Memory()

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.memory.load_state_dict(state["memory"], self.device)


def in_turn(y: Tensor) -> Tensor:
    """Indices (n,) of the labels ``y`` (n,) in a random order that cycles through the classes until each is exhausted."""
    order = torch.randperm(len(y))
    by_class = y[order].argsort(stable=True)
    counts = y.unique(return_counts=True)[1]
    turn = torch.cat([torch.arange(int(count)) for count in counts])
    return order[by_class[turn.argsort(stable=True)]]


def tensors(episodes: Episodes) -> dict[str, Tensor]:
    """All tensors of ``episodes``, by name."""
    parts = {"support": episodes.support, "query": episodes.query}
    examples = {f"{name}.{axis}": getattr(part, axis) for name, part in parts.items() for axis in ("x", "y")}
    return examples | {f"context.{name}": value for name, value in episodes.context.items()}

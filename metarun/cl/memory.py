"""Remembered tasks (or examples: one query and no support set), in tensors."""

from typing import Any

import torch
from torch import Tensor

from metarun.cl.method import ContinualMethod
from metarun.config import require
from metarun.data.source import Stage
from metarun.episodes import Episodes, Examples, join


class Memory:
    """Tasks kept for later: some of each stage, or a reservoir over all. Either is filled without a look at single tasks."""

    def __init__(self) -> None:
        self.kept: Episodes | None = None
        """The first `size` of them are remembered."""
        self.size = 0
        self.seen = 0
        """Tasks that the reservoir has been offered."""

    def __len__(self) -> int:
        return self.size

    def add_some(self, stage: Stage, count: int) -> None:
        """Keep ``count`` of a stage's training tasks, or all if they are fewer; of single examples as many of each class."""
        source = stage.train.in_order()
        ids = torch.arange(count)
        if source.count is not None:
            ids = in_turn(torch.zeros(source.count) if source.y is None else source.y.cpu())[:count]
        new = source.sample(ids)
        self.kept = new if self.kept is None else join([self.kept, new])
        self.size = len(self.kept)

    def offer(self, episodes: Episodes, capacity: int) -> None:
        """Reservoir sampling (Vitter's algorithm R): of all tasks ever offered each is here with the same probability."""
        device = episodes.query.x.device
        number = torch.arange(len(episodes), device=device)
        position = number + self.seen
        drawn = (torch.rand(len(episodes), device=device, dtype=torch.float64) * (position + 1)).long()
        slot = torch.where(position < capacity, position, drawn).clamp(max=capacity)
        # Of several tasks that fall on one slot the last one stays, as one after another would have it. What is not kept goes
        # to a slot more, which nobody reads.
        last = torch.zeros(capacity + 1, dtype=torch.int64, device=device).scatter_reduce_(0, slot, number, "amax")
        slot = slot.where(last[slot] == number, capacity)
        if self.kept is None:
            self.kept = episodes.pick(torch.zeros(capacity + 1, dtype=torch.int64, device=device))
        new = tensors(episodes)
        for name, value in tensors(self.kept).items():
            value[slot] = new[name]
        self.seen += len(episodes)
        self.size = min(self.seen, capacity)

    def draw(self, count: int) -> Episodes:
        """``count`` tasks, each any of those remembered."""
        if self.kept is None:
            raise ValueError("the memory is empty")
        return self.kept.pick(torch.randint(self.size, (count,), device=self.kept.query.x.device))

    def state_dict(self) -> dict[str, Any]:
        """All of it; tensors and plain values."""
        counts = {"size": self.size, "seen": self.seen}
        return counts if self.kept is None else counts | {"ways": self.kept.query.ways, "tensors": tensors(self.kept)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Continue from what `state_dict` gave."""
        self.size, self.seen, self.kept = state["size"], state["seen"], None
        if "tensors" in state:
            values = {name: value.to(device) for name, value in state["tensors"].items()}
            support, query = (
                Examples(values.pop(f"{part}.x"), values.pop(f"{part}.y"), state["ways"]) for part in ("support", "query")
            )
            self.kept = Episodes(support, query, {name.removeprefix("context."): value for name, value in values.items()})


class RehearsalMethod(ContinualMethod):
    """A method that keeps a memory of tasks, which is in its checkpoint.

    Args:
        size: tasks to keep, of each stage or in all.
        draw: remembered tasks in an update; None: as many as new ones.
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
    """Places of the labels ``y`` (n,) in a random order that takes the classes in turn, as long as each has some left, (n,)."""
    drawn = torch.randperm(len(y))
    by_class = y[drawn].argsort(stable=True)
    counts = y.unique(return_counts=True)[1]
    turn = torch.cat([torch.arange(int(count)) for count in counts])
    return drawn[by_class[turn.argsort(stable=True)]]


def tensors(episodes: Episodes) -> dict[str, Tensor]:
    """All tensors of ``episodes``, by name."""
    parts = {"support": episodes.support, "query": episodes.query}
    examples = {f"{name}.{axis}": getattr(part, axis) for name, part in parts.items() for axis in ("x", "y")}
    return examples | {f"context.{name}": value for name, value in episodes.context.items()}

"""Remembered tasks (or examples: one query and no support set), in tensors."""

from typing import Any

import torch
from torch import Tensor

from metarun.data.source import Stage
from metarun.episodes import Episodes, Examples, join


class Memory:
    """Tasks kept for later. Each of the two ways to fill it is one gather and one scatter, whatever the number of tasks."""

    def __init__(self) -> None:
        self.kept: Episodes | None = None
        self.seen = 0
        """Tasks that the reservoir has been offered."""

    def __len__(self) -> int:
        return 0 if self.kept is None else len(self.kept)

    def add_some(self, stage: Stage, count: int) -> None:
        """Keep ``count`` of a stage's training tasks, or all if they are fewer."""
        source = stage.train.in_order()
        ids = torch.arange(count) if source.count is None else torch.randperm(source.count)[:count]
        new = source.sample(ids)
        self.kept = new if self.kept is None else join([self.kept, new])

    def offer(self, episodes: Episodes, capacity: int) -> None:
        """Reservoir sampling (Vitter's algorithm R): of all tasks ever offered each is here with the same probability."""
        device = episodes.query.x.device
        number = torch.arange(len(episodes), device=device)
        position = number + self.seen
        drawn = (torch.rand(len(episodes), device=device, dtype=torch.float64) * (position + 1)).long()
        slot = torch.where(position < capacity, position, drawn)
        # Of several tasks that fall on one slot the last one stays, as one after another would have it.
        last = torch.full((capacity,), -1, device=device)
        fits = slot < capacity
        last.scatter_reduce_(0, slot.where(fits, 0), number.where(fits, -1), "amax")
        taken = last >= 0
        self.seen += len(episodes)
        if self.kept is None:
            self.kept = episodes.pick(last[taken])
            return
        size, full = len(self.kept), min(self.seen, capacity)
        if full > size:
            self.kept = join([self.kept, episodes.pick(last[size:full])])
        kept, new = tensors(self.kept), tensors(episodes.pick(last[:size].clamp(min=0)))
        replaced = taken[:size].nonzero()[:, 0]
        for name, value in kept.items():
            value[replaced] = new[name][replaced]

    def draw(self, count: int) -> Episodes:
        """``count`` tasks, each any of those kept."""
        if self.kept is None:
            raise ValueError("the memory is empty")
        return self.kept.pick(torch.randint(len(self), (count,), device=self.kept.query.x.device))

    def state_dict(self) -> dict[str, Any]:
        """All of it; tensors and plain values."""
        if self.kept is None:
            return {"seen": self.seen}
        return {"seen": self.seen, "ways": self.kept.query.ways, "tensors": tensors(self.kept)}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Continue from what `state_dict` gave."""
        self.seen, self.kept = state["seen"], None
        if "tensors" in state:
            values = {name: value.to(device) for name, value in state["tensors"].items()}
            support, query = (
                Examples(values.pop(f"{part}.x"), values.pop(f"{part}.y"), state["ways"]) for part in ("support", "query")
            )
            self.kept = Episodes(support, query, {name.removeprefix("context."): value for name, value in values.items()})


def tensors(episodes: Episodes) -> dict[str, Tensor]:
    """All tensors of ``episodes``, by name."""
    parts = {"support": episodes.support, "query": episodes.query}
    examples = {f"{name}.{axis}": getattr(part, axis) for name, part in parts.items() for axis in ("x", "y")}
    return examples | {f"context.{name}": value for name, value in episodes.context.items()}

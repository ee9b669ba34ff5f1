"""Joint training: the data of several stages at once, the bound that continual learning is measured against."""

from typing import Literal

import torch
from torch import Tensor

from metarun.cl.method import ContinualMethod, Needs
from metarun.data.source import TaskSource
from metarun.episodes import Episodes, join
from metarun.rng import bits, derive

TASKS_OF_A_STAGE = 2**40
"""Numbers of tasks kept for the updates of one stage, more than any can use."""


class Joint(ContinualMethod):
    """Each stage's updates take tasks of many stages, never the same in two stages where tasks are without number.

    Args:
        stages: "all" from the start on, as in van de Ven et al. (2022), or "so_far" (the reference of intransigence).
    """

    needs: Needs = "stages"
    gives_tasks = True

    def __init__(self, stages: Literal["all", "so_far"] = "all") -> None:
        self.which = stages

    def source(self, stage: int) -> TaskSource:
        known = self.stages if self.which == "all" else self.stages[: stage + 1]
        return Mixture([s.train for s in known], derive(self.seed, "mixture", stage), first=stage * TASKS_OF_A_STAGE)


class Mixture(TaskSource):
    """Tasks of several sources of one shape, drawn in proportion to their sizes; those without a size count alike.

    Args:
        sources: where tasks come from.
        key: decides which source each task is of.
        first: number that task 0 has in its source.
    """

    def __init__(self, sources: list[TaskSource], key: int, first: int = 0) -> None:
        self.sources, self.key, self.first = sources, key, first
        sizes = [source.count for source in sources]
        whole = [size for size in sizes if size is not None]
        shares = torch.tensor(whole if len(whole) == len(sizes) else [1] * len(sizes), dtype=torch.float64)
        self.ends = (shares.cumsum(0) / shares.sum() * 2**31).long()

    def sample(self, ids: Tensor) -> Episodes:
        ids = ids.cpu()
        which = torch.bucketize(bits(self.key, ids, 1)[:, 0], self.ends, right=True).clamp(max=len(self.sources) - 1)
        places = [(which == i).nonzero()[:, 0] for i in range(len(self.sources))]
        parts = [source.sample(self.first + ids[place]) for source, place in zip(self.sources, places, strict=True) if len(place)]
        whole = join(parts)
        return whole.pick(torch.cat(places).argsort().to(whole.query.x.device, non_blocking=True))

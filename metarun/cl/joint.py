"""Joint training on the data of several stages, the upper bound for continual learning."""

from typing import Literal

import torch
from torch import Tensor

from metarun.cl.method import ContinualMethod, Needs
from metarun.data.source import TaskSource
from metarun.episodes import Episodes, join
from metarun.rng import bits, derive

TASKS_OF_A_STAGE = 2**40
"""Range of task numbers reserved for each stage, larger than any stage can use."""


class Joint(ContinualMethod):
    """The updates of each stage take tasks from many stages; with infinite sources, no two stages train on the same tasks.

    Args:
        stages: "all" stages from the start, as in van de Ven et al. (2022), or those "so_far" (the reference for intransigence).
    """

    needs: Needs = "stages"
    gives_tasks = True

    def __init__(self, stages: Literal["all", "so_far"] = "all") -> None:
        self.which = stages

    def source(self, stage: int) -> TaskSource:
        mixed = self.stages if self.which == "all" else self.stages[: stage + 1]
        return Mixture([s.train for s in mixed], derive(self.seed, "mixture", stage), first=stage * TASKS_OF_A_STAGE)


class Mixture(TaskSource):
    """Tasks from several sources with tasks of one shape, in proportion to the sizes of the sources, or equally if one is infinite.

    Args:
        sources: to draw from.
        key: of the random choice of a source for each task.
        first: number of task 0 in its source.
    """

    def __init__(self, sources: list[TaskSource], key: int, first: int = 0) -> None:
        self.sources, self.key, self.first = sources, key, first
        sizes = [source.count for source in sources]
        finite = [size for size in sizes if size is not None]
        shares = torch.tensor(finite if len(finite) == len(sizes) else [1] * len(sizes), dtype=torch.float64)
        self.ends = (shares.cumsum(0) / shares.sum() * 2**31).long()

    def sample(self, ids: Tensor) -> Episodes:
        ids = ids.cpu()
        which = torch.bucketize(bits(self.key, ids, 1)[:, 0], self.ends, right=True).clamp(max=len(self.sources) - 1)
        places = [(which == i).nonzero()[:, 0] for i in range(len(self.sources))]
        parts = [source.sample(self.first + ids[place]) for source, place in zip(self.sources, places, strict=True) if len(place)]
        joined = join(parts)
        return joined.pick(torch.cat(places).argsort().to(joined.query.x.device, non_blocking=True))

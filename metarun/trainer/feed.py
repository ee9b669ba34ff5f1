"""The tasks of each update, in order."""

from collections.abc import Iterator

import torch

from metarun.data.source import TaskSource
from metarun.episodes import Episodes
from metarun.trainer.sharding import Sharding

SAMPLED_VALUES = 2**16
"""Input values sampled at once, ahead of the updates that use them: a cheap task costs more to request than to make."""
MOST_UPDATES = 64
"""Updates whose tasks are sampled at once."""


class Feed:
    """Samples the tasks of updates by number, those of small tasks for many updates at once.

    Args:
        tasks: per update.
        sharding: which of them this process samples.
        one: a task like the ones to come, for its size.
    """

    def __init__(self, tasks: int, sharding: Sharding, one: Episodes) -> None:
        self.tasks, self.sharding = tasks, sharding
        values = tasks * (one.support.x.numel() + one.query.x.numel())
        self.ahead = min(max(1, SAMPLED_VALUES // values), MOST_UPDATES)

    def batches(self, source: TaskSource, start: int, end: int) -> Iterator[Episodes]:
        """Tasks of each update from number ``start`` to ``end`` of ``source``: update i takes the tasks from i ``tasks`` on."""
        for first in range(start, end, self.ahead):
            updates = min(self.ahead, end - first)
            ids = torch.arange(first * self.tasks, (first + updates) * self.tasks).view(updates, self.tasks)
            own = self.sharding.sampled(ids)
            yield from source.sample(own.flatten()).split(own.shape[1])

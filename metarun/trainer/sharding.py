"""Which tasks of an update each process samples and learns from."""

from torch import Tensor

from metarun.algo.algorithm import Algorithm
from metarun.cl.method import ContinualMethod
from metarun.config import ConfigError, require
from metarun.episodes import Episodes
from metarun.ranks import Ranks
from metarun.trainer.settings import Settings


class Sharding:
    """Divides the tasks of an update among the processes of a run.

    A process samples its own shard alone, unless the tasks of an update are kept or used by somebody besides the learner: a
    continual method that remembers them or adds a loss, or the detector of boundaries. Every process then samples all of them, so
    that these states stay the same in all, and learns from its shard.

    Raises:
        ConfigError: fewer tasks than processes, or a learner whose tasks cannot be divided.
    """

    def __init__(self, algorithm: Algorithm, method: ContinualMethod, settings: Settings, ranks: Ranks) -> None:
        self.ranks, self.tasks = ranks, settings.tasks
        self.samples_shard = not method.sees_tasks and settings.detect is None
        if ranks.size > 1:
            why = algorithm.why_not_sharded if algorithm.trains else None
            if why is not None:
                raise ConfigError(f"{why}; start one process, without torchrun")
            self._require_enough("trainer.tasks", settings.tasks)

    def sampled(self, ids: Tensor) -> Tensor:
        """Of the task ids (updates, tasks) those that this process samples, (updates, fewer)."""
        return ids[:, self.ranks.shard(self.tasks)] if self.samples_shard else ids

    def own(self, episodes: Episodes) -> tuple[Episodes, float]:
        """The tasks that this process learns from, and their share in the update.

        Raises:
            RangeError: the method has mixed them to fewer tasks than there are processes.
        """
        if self.samples_shard:
            return episodes, len(episodes) / self.tasks
        self._require_enough("cl.draw", len(episodes))
        own = episodes.pick(self.ranks.shard(len(episodes))) if self.ranks.size > 1 else episodes
        return own, len(own) / len(episodes)

    def _require_enough(self, key: str, tasks: int) -> None:
        require(tasks >= self.ranks.size, key, tasks, f"{self.ranks.size} or more, one for each of torchrun's processes")

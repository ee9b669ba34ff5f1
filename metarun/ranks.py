"""The processes of a run; this module covers the case of a single process. Imports no torch.

Several processes are started by torchrun, which numbers them by rank; `metarun.trainer.ranks` connects them.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables that torchrun sets in the environment of each process it starts."""


class Ranks:
    """The processes that share the tasks of an update and of a test.

    Rank 0 decides and writes. All ranks have the same weights, states and scores at any time.

    Attributes:
        rank: number of this process.
        size: number of processes.
        local: number of this process among those of its machine.
    """

    def __init__(self, rank: int = 0, size: int = 1, local: int = 0) -> None:
        self.rank, self.size, self.local = rank, size, local

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which decides and writes."""
        return self.rank == 0

    def shard(self, tasks: int) -> slice:
        """The shard of this process among the tasks 0 … ``tasks`` - 1; the sizes of shards differ by at most one."""
        return slice(tasks * self.rank // self.size, tasks * (self.rank + 1) // self.size)

    def all_reduce_mean(self, tensors: "list[Tensor]", share: float) -> None:
        """Replace each tensor by its mean over the processes, each weighted by its ``share`` (the shares add up to 1)."""

    def all_reduce_max(self, *values: int) -> tuple[int, ...]:
        """The maximum of each value over all processes; also a barrier."""
        return values

    def broadcast(self, value: Any) -> Any:
        """The value of rank 0."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        return [value]

    def independent_draws(self, device: Any, *, shared: bool) -> AbstractContextManager[None]:
        """Within the block torch's generator draws differently in each process, unless ``shared``; its state is restored after.

        Rank 0 draws as a single process would.
        """
        return nullcontext()

    @contextmanager
    def local_first(self) -> Iterator[None]:
        """One process per machine runs the block before the others, which can then use what it downloaded or decoded."""
        if self.local:
            self.all_reduce_max(0)
        yield
        if not self.local:
            self.all_reduce_max(0)


ALONE = Ranks()
"""A single process."""


def launched() -> Ranks | None:
    """The rank of this process and the number of processes, as started by torchrun; None for a single process."""
    if not all(key in os.environ for key in LAUNCHED) or os.environ["WORLD_SIZE"] == "1":
        return None
    return Ranks(*(int(os.environ[key]) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))

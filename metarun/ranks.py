"""The processes of one run: here the ordinary case, one that does everything. Imports no torch.

Several are started by torchrun, which numbers them by rank; `metarun.trainer.ranks` is how they talk to each other.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun puts into the environment of each process it starts."""


class Ranks:
    """The processes among which the tasks of an update and of a test are shared out.

    The first, rank 0, decides and writes. All others have the same weights, states and figures at every moment.

    Attributes:
        rank: number of this process.
        size: how many there are.
        local: number of this process among those of its machine.
    """

    def __init__(self, rank: int = 0, size: int = 1, local: int = 0) -> None:
        self.rank, self.size, self.local = rank, size, local

    @property
    def first(self) -> bool:
        """Whether this is the process that decides and writes."""
        return self.rank == 0

    def part(self, tasks: int) -> slice:
        """Those of 0 … ``tasks`` - 1 that are this process's; the sizes of two parts differ by one at most."""
        return slice(tasks * self.rank // self.size, tasks * (self.rank + 1) // self.size)

    def average(self, tensors: "list[Tensor]", share: float) -> None:
        """Replace each tensor by its mean over the processes, each of which counts by its ``share`` (they add up to 1)."""

    def agree(self, *values: int) -> tuple[int, ...]:
        """The largest of each value over all processes, which wait for each other here."""
        return values

    def told(self, value: Any) -> Any:
        """What the first process says."""
        return value

    def gather(self, value: Any) -> list[Any]:
        """What every process says, by rank."""
        return [value]

    def own_draws(self, device: Any, *, shared: bool) -> AbstractContextManager[None]:
        """For the length of the block torch's generator draws otherwise in each process, unless ``shared``; then it is put back.

        The first process draws what it would have drawn alone.
        """
        return nullcontext()

    @contextmanager
    def one_before_others(self) -> Iterator[None]:
        """On each machine one process goes through the block before the others, which find what it has downloaded or decoded."""
        if self.local:
            self.agree(0)
        yield
        if not self.local:
            self.agree(0)


ALONE = Ranks()
"""One process, which has everything to itself."""


def launched() -> Ranks | None:
    """The place of this process among several that torchrun has started; None where there is one alone."""
    if not all(key in os.environ for key in LAUNCHED) or os.environ["WORLD_SIZE"] == "1":
        return None
    return Ranks(*(int(os.environ[key]) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))

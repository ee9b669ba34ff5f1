"""How much of a protocol a run does, so that a paper's table can be had in minutes as well as in days."""

from dataclasses import dataclass

from metarun.config import require


@dataclass(frozen=True)
class Budget:
    """A part of the outer updates and of the test tasks that the rest of the configuration says.

    Work is counted and not timed, so that the same command always makes the same updates.

    Attributes:
        name: by which results tell it.
        share: of the updates; 1: all.
        operations: most floating-point operations of training, counted as passes through the network, one an update and one an
            inner step; the backward passes, some times as much again, are not counted; null: as many as there are.
        test_tasks: at most so many, in validation too; null: all.
    """

    name: str
    share: float = 1.0
    operations: float | None = None
    test_tasks: int | None = None

    def __post_init__(self) -> None:
        require(0 < self.share <= 1, "share", self.share, "a number above 0, at most 1")
        require(self.operations is None or self.operations > 0, "operations", self.operations, "a number above 0, or null")
        require(self.test_tasks is None or self.test_tasks > 0, "test_tasks", self.test_tasks, "1 or more, or null")

    @property
    def full(self) -> bool:
        """Whether it cuts nothing."""
        return self.share == 1 and self.operations is None and self.test_tasks is None

    def iterations(self, iterations: int, work: float) -> int:
        """Of ``iterations`` updates of ``work`` operations each those that are made; one at the least."""
        most = iterations * self.share if self.operations is None else min(iterations * self.share, self.operations / max(work, 1))
        return min(iterations, max(1, int(most)))

    def tests(self, tasks: int) -> int:
        """Of so many test or validation tasks those that are made."""
        return tasks if self.test_tasks is None else min(tasks, self.test_tasks)

"""The part of a protocol that a run carries out, so that a paper's table takes minutes or days as one likes."""

from dataclasses import dataclass

from metarun.config import require


@dataclass(frozen=True)
class Budget:
    """Limits the outer updates and test tasks of a configuration.

    Work is counted and not timed, so that the same command always makes the same updates.

    Attributes:
        name: under which results report it.
        share: of the updates that are made; 1: all.
        operations: most floating-point operations of training, counted as one pass through the network per update and inner step;
            backward passes, which cost a few times as much again, are not counted; null: no limit.
        test_tasks: most tasks of the test and of a validation; null: no limit.
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
        """Whether it limits nothing."""
        return self.share == 1 and self.operations is None and self.test_tasks is None

    def iterations(self, iterations: int, work: float) -> int:
        """How many of ``iterations`` updates, each of ``work`` operations, are made; at least one."""
        most = iterations * self.share if self.operations is None else min(iterations * self.share, self.operations / max(work, 1))
        return min(iterations, max(1, int(most)))

    def tests(self, tasks: int) -> int:
        """How many of ``tasks`` test or validation tasks are evaluated."""
        return tasks if self.test_tasks is None else min(tasks, self.test_tasks)

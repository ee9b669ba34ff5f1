"""Signals that ask a run to stop, agreed on among its processes."""

from metarun.ranks import Ranks
from metarun.signals import Interrupted, Signals
from metarun.trainer.runstate import RunState


class Stopping:
    """Turns a signal that any of the processes has caught into an exception in all of them.

    Args:
        signals: those of this process.
        ranks: the processes, which wait for each other at every call.
        state: of the run.
    """

    def __init__(self, signals: Signals, ranks: Ranks, state: RunState) -> None:
        self.signals, self.ranks, self.state = signals, ranks, state

    def caught(self, due: bool) -> tuple[int, bool]:
        """Number of a signal, 0 if there was none; and whether a checkpoint is ``due`` in any process."""
        number, any_due = self.ranks.all_reduce_max(self.signals.caught or 0, due)
        return number, bool(any_due)

    def check(self) -> None:
        """Raises `Interrupted` if there was a signal."""
        self.stop(*self.ranks.all_reduce_max(self.signals.caught or 0))

    def stop(self, number: int) -> None:
        """Raises `Interrupted` for the signal of this number; 0: there was none."""
        if number:
            raise Interrupted(number, f"stopped at update {self.state.position.step} of {self.state.total}")

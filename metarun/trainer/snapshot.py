"""When and where the state of a run is written and read."""

import logging
from collections.abc import Callable

from metarun.ranks import Ranks
from metarun.tracking import Log, RunFolder
from metarun.trainer import checkpoint
from metarun.trainer.runstate import RunState

log = logging.getLogger(__name__)


def restore(state: RunState, folder: RunFolder, ranks: Ranks) -> int | None:
    """Continue from the checkpoint in ``folder``, if there is one → lines of metrics.jsonl that it knows of; None: not recorded."""
    saved = ranks.broadcast(checkpoint.load(folder.last) if ranks.first else None)
    if saved is None:
        return 0
    state.load_state_dict(saved)
    state.position.resumed_at.append(state.position.step)
    log.info("Continuing at update %d of %d", state.position.step, state.total)
    lines: int | None = saved.get("lines")
    return lines


class Snapshots:
    """Writes the checkpoints of a run.

    Args:
        folder: of the run.
        source: digest of the code that runs.
        state: what is written.
        log: whose lines the checkpoint knows of.
        ranks: the first process alone writes.
        every: seconds between checkpoints.
        clock: in seconds.
    """

    def __init__(
        self, folder: RunFolder, source: str, state: RunState, log: Log, ranks: Ranks, every: float, clock: Callable[[], float]
    ) -> None:
        self.folder, self.source, self.state, self.log, self.ranks = folder, source, state, log, ranks
        self.every, self.clock = every, clock
        self._saved_at = clock()
        self._best_on_disk: list[int] = []

    @property
    def due(self) -> bool:
        """Whether it is time for the next checkpoint."""
        return self.clock() - self._saved_at >= self.every

    def save(self) -> None:
        """Write the checkpoint.

        Raises:
            Diverged: what it would hold is not finite; the last good checkpoint stays.
        """
        self.state.require_finite()
        if self.ranks.first:
            self.write()
        self._saved_at = self.clock()

    def write(self) -> None:
        """Write the best weights, if they have changed, and the state."""
        best = self.state.best
        if best.states and best.steps != self._best_on_disk:
            checkpoint.save(self.folder.best, {"steps": best.steps, "states": best.states})
            self._best_on_disk = best.steps
        content = {"source": self.source, **self.state.state_dict(), "lines": self.log.sync()}
        checkpoint.save(self.folder.last, content, self.folder.previous)

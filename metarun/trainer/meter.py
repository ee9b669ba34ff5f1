"""What is shown and logged of training while it runs: its speed, its loss, a progress bar."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from typing import Any, NamedTuple

from tqdm import tqdm

from metarun.ranks import Ranks
from metarun.tracking import Log
from metarun.trainer.runstate import RunState
from metarun.trainer.settings import Settings
from metarun.trainer.state import Diverged, require_finite


class Reading(NamedTuple):
    """Mean of the learner's loss and of the other parts of the loss, and the number of updates that were reverted."""

    means: dict[str, float]
    reverted: int


class Meter:
    """Counts the time of updates, logs their mean losses and moves the progress bar.

    Args:
        settings: for `tasks` and `log_every`.
        state: of the run.
        log: for the losses and the speed.
        ranks: the first process alone shows a bar.
        clock: in seconds.
    """

    def __init__(
        self, settings: Settings, state: RunState, log: Log, ranks: Ranks, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.settings, self.state, self.log, self.ranks, self.clock = settings, state, log, ranks, clock
        self._since = clock()
        self._shown: dict[str, str] = {}
        self._bar: tqdm[Any] | None = None

    # Time -------------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Count time from now on."""
        self._since = self.clock()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time that the block takes."""
        self._count_time()
        yield
        self.start()

    def _count_time(self) -> None:
        now = self.clock()
        self.state.position.seconds += now - self._since
        self._since = now

    # Losses -----------------------------------------------------------------------------------------------------------------

    def read_losses(self) -> Reading:
        """Mean since the last log of the learner's loss and of the loss's other parts. This, and no update, waits for the device.

        Raises:
            Diverged: the loss is not finite, or no update was.
        """
        losses, step, reverted = self.state.losses, self.state.position.step, self._count_reverted()
        if reverted >= max(losses.updates, self.settings.log_every):
            raise Diverged(f"none of the last {reverted} updates was finite, at update {step}")
        means = losses.means(reverted)
        if losses.updates > reverted:
            require_finite(sum(means.values()), step)
        return Reading(means, reverted)

    def log_losses(self, reading: Reading) -> None:
        """Log what `read_losses` has read, and begin new means.

        `train/loss` is what updates descend. Where it has several parts, `train/learner` is the tasks' loss with their weights,
        `train/extra` what a continual method adds to it, `train/penalty` its penalty.
        """
        self._count_time()
        position, loss = self.state.position, sum(reading.means.values())
        speed = position.step * self.settings.tasks / max(position.seconds, 1e-9)
        parts = {"train/nonfinite": float(reading.reverted)} if reading.reverted else {}
        if len(reading.means) > 1:
            parts |= {f"train/{name}": value for name, value in reading.means.items()}
        self.log.scalars(position.step, {"train/loss": loss, **parts, "time/tasks_per_second": speed})
        self.state.losses.clear()
        self.show(loss=f"{loss:.4g}", **{"tasks/s": f"{speed:.0f}"})

    def _count_reverted(self) -> int:
        """Updates reverted since the last time."""
        if self.state.guard is None:
            return 0
        updates, tasks = self.state.guard.take_counts()
        position = self.state.position
        position.nonfinite = [position.nonfinite[0] + updates, position.nonfinite[1] + tasks]
        return updates

    # Bar --------------------------------------------------------------------------------------------------------------------

    @contextmanager
    def bar(self, name: str, start: int, end: int) -> Iterator[None]:
        """Show the progress from update ``start`` to ``end`` during the block, in a terminal alone."""
        done = self.state.position.step - start
        hidden = None if has_terminal() and self.ranks.first else True  # None: shown in a terminal
        with tqdm(total=end - start, initial=done, desc=name, unit="update", disable=hidden, dynamic_ncols=True) as self._bar:
            yield

    @property
    def visible(self) -> bool:
        """Whether a progress bar is shown."""
        return self._bar is not None and not self._bar.disable

    def advance(self) -> None:
        """An update has been made."""
        if self._bar is not None:
            self._bar.update()

    def show(self, **shown: str) -> None:
        """Show these beside the bar."""
        self._shown |= shown
        if self._bar is not None:
            self._bar.set_postfix(self._shown, refresh=False)


def has_terminal() -> bool:
    """Whether this process may use the terminal: one of a sweep's several leaves it to the sweep's bar."""
    return parent_process() is None

"""The outer loop: stage after stage, update after update."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from metarun.data.source import Stage
from metarun.episodes import Episodes
from metarun.tracking import RunFolder
from metarun.trainer.boundary import Boundary
from metarun.trainer.draws import Draws
from metarun.trainer.feed import Feed
from metarun.trainer.meter import Meter
from metarun.trainer.online import Stream, stretches
from metarun.trainer.order import StageOrder
from metarun.trainer.runstate import RunState
from metarun.trainer.settings import Settings
from metarun.trainer.snapshot import Snapshots
from metarun.trainer.state import Outcome, Pruned
from metarun.trainer.stopping import Stopping
from metarun.trainer.tester import Tester
from metarun.trainer.update import Update
from metarun.trainer.validation import Validation


@dataclass
class Loop:
    """Leads the learner through all stages, from wherever its state is, to the outcome.

    Attributes:
        stream: looks at new tasks before each update; None: stages are announced, one after another.
    """

    settings: Settings
    state: RunState
    draws: Draws
    feed: Feed
    update: Update
    order: StageOrder
    boundary: Boundary
    stream: Stream | None
    tester: Tester
    validation: Validation
    meter: Meter
    snapshots: Snapshots
    stopping: Stopping
    folder: RunFolder

    def run(self) -> Outcome:
        """Train to the end and test.

        Raises:
            Diverged, Interrupted, Pruned: see `Trainer.fit`.
        """
        if self.stream:
            self._run_stream(self.stream)
            return self.tester.outcome(self.stream.rounds)
        for number in range(self.state.position.ended, len(self.state.stages)):
            self._run_stage(number)
        return self.tester.outcome(None)

    def _run_stage(self, number: int) -> None:
        state, stage_only = self.state, len(self.state.stages) == 1
        if number == state.position.started:
            self.order.arrange(number)
            self._begin(number)
        state.method.enter(number)
        stage, start, end = state.stages[number], number * state.iterations, (number + 1) * state.iterations
        batches = self.feed.batches(state.method.source(number), state.position.step - start, state.iterations)
        with self.meter.bar("train" if stage_only else stage.name, start, end):
            self._train(batches, end, stage)
        self.boundary.end(stage)
        self._save()

    def _run_stream(self, stream: Stream) -> None:
        state = self.state
        if not state.position.started:
            self._begin(0)
        state.method.enter(state.position.started - 1)
        segments = stretches(stream.rounds, state.position.step)
        batches = chain.from_iterable(self.feed.batches(state.stages[i].train, start, end) for i, start, end in segments)
        with self.meter.bar("stream", 0, state.total):
            self._train(batches, state.total)
        self._save()

    def _begin(self, number: int) -> None:
        self.tester.add_row()
        self.boundary.begin(number)
        self._save()

    def _train(self, batches: Iterator[Episodes], end: int, stage: Stage | None = None) -> None:
        """Make all updates up to ``end``, validated on ``stage`` if there is one."""
        position, settings = self.state.position, self.settings
        self.state.algorithm.train()
        self.meter.start()
        while position.step < end:
            self.step(batches)
            self.meter.advance()
            last = position.step == end
            if last or position.step % settings.log_every == 0:
                self._log()
            if stage and settings.validate_every and (last or position.step % settings.validate_every == 0):
                self.validation(stage)
                self._stop_if_pruned()
            number, due = self.stopping.caught(self.snapshots.due)
            if number or due:
                self._save()
            self.stopping.stop(number)

    def step(self, batches: Iterator[Episodes]) -> None:
        """One update: draw its tasks, look at them if they are a stream's, learn from them, show them to the method."""
        state = self.state
        self.draws.reseed(state.position.step)
        state.algorithm.progress = state.position.step / state.total
        episodes = next(batches)
        if self.stream:
            self._look(self.stream, episodes)
        step = self.update(episodes)
        # Only for a method that observes updates does the host wait for whether this one was made.
        if step.finite is None or not state.method.observes or bool(step.finite):
            state.method.after_update(state.algorithm, episodes)
        state.losses.add(step)
        state.position.step += 1

    def _look(self, stream: Stream, episodes: Episodes) -> None:
        """Score ``episodes`` before their labels are trained on; the method is told of a boundary detected before them.

        Nothing is saved at such a boundary: it is in the middle of an update.
        """
        ended = stream.look(episodes)
        if ended:
            stream.log_scores()  # here, so that the order of lines does not depend on when the last checkpoint was
            self.boundary.end(ended)
            self.boundary.begin(self.state.position.started)
            self.state.method.enter(self.state.position.started - 1)
            self.draws.reseed(self.state.position.step)
        stream.observe(episodes)

    def _log(self) -> None:
        reading = self.meter.read_losses()
        if self.stream:
            self.stream.log_scores()
        self.meter.log_losses(reading)

    def _save(self) -> None:
        with self.meter.paused():
            self.folder.check_claim()
            if self.stream:
                self.stream.log_scores()
            self.snapshots.save()

    def _stop_if_pruned(self) -> None:
        """Raises `Pruned` where a search has put the file `stop` into the run directory."""
        if any(self.stopping.ranks.all_reduce_max(self.folder.stop.exists())):
            self._save()
            raise Pruned(f"pruned at update {self.state.position.step} of {self.state.total}")

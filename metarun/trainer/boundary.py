"""Boundaries between stages: what happens when one ends and the next begins."""

from metarun.data.source import Stage
from metarun.tracking import Log
from metarun.trainer.draws import Draws
from metarun.trainer.runstate import RunState


class Boundary:
    """Begins and ends stages: the method's hooks, new parameters, moments and schedule of the optimizer.

    Args:
        state: of the run.
        draws: torch's generator.
        log: for figures of the method.
        reset_optimizer: drop all moments of the optimizer when a stage begins.
        restart_schedule: begin the schedule of the learning rate anew in each stage.
    """

    def __init__(self, state: RunState, draws: Draws, log: Log, *, reset_optimizer: bool, restart_schedule: bool) -> None:
        self.state, self.draws, self.log = state, draws, log
        self.reset_optimizer, self.restart_schedule = reset_optimizer, restart_schedule

    def begin(self, number: int) -> None:
        """Begin stage ``number``."""
        state = self.state
        if number and self.reset_optimizer:
            state.optimizer.forget()
        if number and self.restart_schedule:
            state.optimizer.restart_schedule()
        self.draws.reseed(state.position.step, "start")
        state.method.enter(number)
        state.grow(number)
        state.method.on_stage_start(state.algorithm, number)
        state.optimizer.forget(map(state.algorithm.get_parameter, state.method.per_stage))  # moments of the last stage's weights
        state.best.clear()
        state.position.started += 1

    def end(self, stage: Stage) -> None:
        """End ``stage``, which has been trained."""
        state = self.state
        self.draws.reseed(state.position.step, "end")
        figures = state.method.on_stage_end(state.algorithm, stage)
        if figures:
            self.log.scalars(state.position.step, {f"stage/{name}": value for name, value in figures.items()})
        state.position.ended += 1

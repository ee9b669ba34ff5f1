"""Builds the parts of a training: its state first, then the rooms that act on it."""

from collections.abc import Callable

import torch
from torch import Tensor

from metarun.algo.algorithm import Algorithm
from metarun.cl.method import ContinualMethod
from metarun.config import ConfigError
from metarun.data.source import Stage
from metarun.episodes import Episodes
from metarun.ranks import Ranks
from metarun.signals import Signals
from metarun.tracking import Log, RunFolder
from metarun.trainer.best import BestWeights
from metarun.trainer.boundary import Boundary
from metarun.trainer.detector import BoundaryDetector
from metarun.trainer.draws import Draws
from metarun.trainer.feed import Feed
from metarun.trainer.guard import Guard
from metarun.trainer.headline import Headline
from metarun.trainer.loop import Loop
from metarun.trainer.losses import Losses
from metarun.trainer.meter import Meter
from metarun.trainer.online import Stream, check_online, stages_of_rounds
from metarun.trainer.optimizer import OuterOptimizer
from metarun.trainer.order import StageOrder
from metarun.trainer.runstate import RunState
from metarun.trainer.settings import Settings
from metarun.trainer.sharding import Sharding
from metarun.trainer.snapshot import Snapshots
from metarun.trainer.state import Position
from metarun.trainer.stopping import Stopping
from metarun.trainer.tester import Tester
from metarun.trainer.update import Update
from metarun.trainer.validation import Validation


def initial_state(settings: Settings, algorithm: Algorithm, stages: list[Stage], method: ContinualMethod) -> RunState:
    """The state before the first stage; ``method`` has been started.

    Raises:
        ConfigError: a method for a learner that trains nothing, or one that must be told more than an online stream tells.
    """
    if not algorithm.trains and type(method) is not ContinualMethod:
        raise ConfigError(f"cl: {type(algorithm).__name__} trains nothing, so there is nothing to keep; choose cl=none")
    taken = list(stages)
    if settings.switch is not None:
        method.announced = False
        check_online(method, detects=settings.detect is not None)
    method.seed = settings.seed
    method.on_start(algorithm, taken)
    device = next(algorithm.parameters()).device
    position = Position(order=list(range(len(stages))))
    updates = settings.iterations if algorithm.trains else 0
    falls_over = updates if settings.switch is None else updates * len(stages)
    optimizer = OuterOptimizer(algorithm.parameters(), settings, falls_over)
    return RunState(
        algorithm=algorithm,
        method=method,
        given=stages,
        stages=taken,
        iterations=updates,
        position=position,
        optimizer=optimizer,
        losses=Losses(device),
        best=BestWeights(settings.keep_best, position),
        guard=Guard(algorithm, optimizer.torch) if settings.nonfinite == "skip" else None,
        detector=None if settings.detect is None else BoundaryDetector(settings.detect),
    )


def assemble(
    settings: Settings,
    state: RunState,
    sharding: Sharding,
    folder: RunFolder,
    source: str,
    log: Log,
    ranks: Ranks,
    signals: Signals,
    clock: Callable[[], float],
) -> Loop:
    """The loop that leads ``state`` on; the arguments are those of `Trainer.fit`."""
    algorithm, method = state.algorithm, state.method
    draws = Draws(settings.seed, next(algorithm.parameters()).device)
    headline = Headline(settings.report_steps, algorithm)
    stopping = Stopping(signals, ranks, state)
    tester = Tester(settings, state, headline, log, ranks, stopping.check)
    meter = Meter(settings, state, log, ranks, clock)
    stream = None
    if settings.switch is not None:
        rounds = stages_of_rounds(settings.seed, state.total, len(state.stages), settings.switch)
        stream = Stream(state, rounds, headline, sharding, log)
    return Loop(
        settings=settings,
        state=state,
        draws=draws,
        feed=Feed(settings.tasks, sharding, state.stages[0].train.sample(torch.arange(1))),
        update=Update(
            algorithm,
            method,
            state.optimizer,
            settings,
            sharding,
            state.guard,
            _compiled(algorithm) if settings.compile == "on" else None,
        ),
        order=StageOrder(settings, state, tester, log),
        boundary=Boundary(state, draws, log, reset_optimizer=settings.reset_optimizer, restart_schedule=stream is None),
        stream=stream,
        tester=tester,
        validation=Validation(state, tester, meter, log),
        meter=meter,
        snapshots=Snapshots(folder, source, state, log, ranks, settings.checkpoint_every, clock),
        stopping=stopping,
        folder=folder,
    )


def _compiled(algorithm: Algorithm) -> Callable[[Episodes], Tensor]:
    from metarun.trainer.compiled import Programs  # which imports the compiler, for seconds

    return Programs(algorithm).backward

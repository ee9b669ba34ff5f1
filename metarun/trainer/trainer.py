"""Trains a learner through stages, with validation, checkpoints and a test at the end."""

import time
from collections.abc import Callable
from contextlib import closing, nullcontext

import torch
from tqdm.contrib.logging import logging_redirect_tqdm

from metarun.algo.algorithm import Algorithm
from metarun.cl.method import ContinualMethod
from metarun.data.source import Stage
from metarun.ranks import ALONE, Ranks
from metarun.signals import Signals
from metarun.tracking import Log, NoLog, RunFolder
from metarun.trainer.assembly import assemble, initial_state
from metarun.trainer.meter import has_terminal
from metarun.trainer.settings import Settings
from metarun.trainer.sharding import Sharding
from metarun.trainer.snapshot import restore
from metarun.trainer.state import Outcome


class Trainer(Settings):
    """Trains a learner through stages and tests it."""

    def fit(
        self,
        algorithm: Algorithm,
        stages: list[Stage],
        method: ContinualMethod,
        folder: RunFolder,
        source: str,
        ranks: Ranks = ALONE,
        *,
        signals: Signals | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> Outcome:
        """Train through ``stages`` and test, continuing from the checkpoint in ``folder`` if there is one.

        Args:
            algorithm: the learner, on its device.
            stages: at least one.
            method: of continual learning.
            folder: of the run.
            source: digest of the code that runs, kept in the checkpoint.
            ranks: the processes that train it together; the first of them alone writes.
            signals: those that stop the run; None: those of this process.
            clock: in seconds, for the time of training and between checkpoints.

        Raises:
            ConfigError: more processes than tasks, tasks that cannot be divided, or a method that the stages do not suit.
            Diverged: the loss or a weight is not finite; the last good checkpoint stays.
            Interrupted: a signal asked to stop; a checkpoint has been written.
            Pruned: the run directory's file `stop` asks for it; a checkpoint has been written.
        """
        torch.set_float32_matmul_precision("high" if self.precision == "tf32" else "highest")
        signals = signals or Signals()
        sharding = Sharding(algorithm, method, self, ranks)
        state = initial_state(self, algorithm, stages, method)
        lines = restore(state, folder, ranks)
        step, tensorboard = state.position.step, self.tensorboard
        log = Log(folder, step, tensorboard=tensorboard, lines=lines) if ranks.first else NoLog()
        loop = assemble(self, state, sharding, folder, source, log, ranks, signals, clock)
        with signals, logging_redirect_tqdm() if has_terminal() else nullcontext(), closing(log):
            return loop.run()

"""One outer update on its own, and a loop about to make its first."""

import time

from metarun.cl.method import ContinualMethod
from metarun.ranks import ALONE
from metarun.signals import Signals
from metarun.tracking import NoLog, RunFolder
from metarun.trainer.assembly import assemble, initial_state
from metarun.trainer.guard import Guard
from metarun.trainer.loop import Loop
from metarun.trainer.optimizer import OuterOptimizer
from metarun.trainer.settings import Settings
from metarun.trainer.sharding import Sharding
from metarun.trainer.update import Update

SGD = {"_target_": "torch.optim.SGD", "lr": 0.01}


def update_of(algorithm, method: ContinualMethod | None = None, **keys) -> Update:
    """The update of a training with these keys of the trainer, whose first stage has begun."""
    method = method or ContinualMethod()
    settings = Settings(0, **({"iterations": 100, "tasks": 5, "optimizer": SGD} | keys))
    optimizer = OuterOptimizer(algorithm.parameters(), settings, settings.iterations)
    guard = Guard(algorithm, optimizer.torch) if settings.nonfinite == "skip" else None
    return Update(algorithm, method, optimizer, settings, Sharding(algorithm, method, settings, ALONE), guard)


def loop_of(path, algorithm, stages, method: ContinualMethod | None = None, **keys) -> Loop:
    """The loop of such a training, its first stage begun; nothing is written."""
    method = method or ContinualMethod()
    settings = Settings(0, **({"iterations": 100, "tasks": 5, "optimizer": SGD} | keys))
    sharding = Sharding(algorithm, method, settings, ALONE)
    state = initial_state(settings, algorithm, stages, method)
    loop = assemble(settings, state, sharding, RunFolder(path), "tests", NoLog(), ALONE, Signals(), time.perf_counter)
    loop.boundary.begin(0)
    algorithm.train()
    return loop

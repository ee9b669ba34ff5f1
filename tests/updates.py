"""One outer update on its own."""

from metarun.cl.method import ContinualMethod
from metarun.ranks import ALONE
from metarun.trainer.guard import Guard
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

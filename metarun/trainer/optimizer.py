"""The optimizer of the outer loop and the schedule of its learning rate."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from metarun.build import build
from metarun.trainer.settings import Settings

DECAYS = {"linear": ("PolynomialLR", "total_iters"), "cosine": ("CosineAnnealingLR", "T_max")}
"""Schedules that need nothing but the number of updates: torch's class, and what it calls that number."""


class OuterOptimizer:
    """A torch optimizer whose schedule can be restarted and whose parameters can grow in number.

    Args:
        parameters: the slow weights.
        settings: for `optimizer` and `scheduler`.
        updates: over which "linear" and "cosine" decay.

    Raises:
        ConfigError: `optimizer` or `scheduler` cannot be built.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], settings: Settings, updates: int) -> None:
        weights = list(parameters)
        can_fuse = weights[0].device.type in ("cpu", "cuda") and _has_fused_form(settings.optimizer)
        fused = {"fused": True} if can_fuse else {}
        self.torch: torch.optim.Optimizer = build({**fused, **settings.optimizer}, weights, key="trainer.optimizer")
        self._rates = [group["lr"] for group in self.torch.param_groups]
        schedule = settings.scheduler
        if isinstance(schedule, str):
            name, total = DECAYS[schedule]
            schedule = {"_target_": f"torch.optim.lr_scheduler.{name}", total: updates}
        self._schedule = schedule
        self.scheduler: torch.optim.lr_scheduler.LRScheduler | None = None
        self.restart_schedule()

    def restart_schedule(self) -> None:
        """Reset the learning rates to their initial values and begin the schedule anew."""
        for group, rate in zip(self.torch.param_groups, self._rates, strict=True):
            group["lr"] = rate
        if self._schedule:
            self.scheduler = build(self._schedule, self.torch, key="trainer.scheduler")

    def extend(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take those of ``parameters`` that are new into the first group, so that they follow its schedule."""
        known = {id(w) for group in self.torch.param_groups for w in group["params"]}
        self.torch.param_groups[0]["params"].extend(w for w in parameters if id(w) not in known)

    def forget(self, parameters: Iterable[nn.Parameter] | None = None) -> None:
        """Drop the moments of ``parameters``; None: of all."""
        for w in list(self.torch.state) if parameters is None else parameters:
            self.torch.state.pop(w, None)

    def clear_gradients(self) -> None:
        """Set all gradients to None; `zero_grad` would cost as much as a small network's layer."""
        for group in self.torch.param_groups:
            for w in group["params"]:
                w.grad = None

    def step(self) -> None:
        """Make one step, and one of the schedule."""
        self.torch.step()
        if self.scheduler:
            self.scheduler.step()

    def state_dict(self) -> dict[str, Any]:
        """States of the optimizer and of the schedule, under the keys of a checkpoint."""
        return {"optimizer": self.torch.state_dict(), "scheduler": self.scheduler.state_dict() if self.scheduler else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict`."""
        self.torch.load_state_dict(state["optimizer"])
        if self.scheduler:
            self.scheduler.load_state_dict(state["scheduler"])


def _has_fused_form(optimizer: dict[str, Any]) -> bool:
    """Whether this optimizer of torch has a fused form, which is the faster one.

    The fused form of SGD fails where some weights have a momentum and others, those of a new stage, have none yet.
    """
    name = optimizer.get("_target_")
    return name in {"torch.optim.Adam", "torch.optim.AdamW"} or (name == "torch.optim.SGD" and not optimizer.get("momentum"))

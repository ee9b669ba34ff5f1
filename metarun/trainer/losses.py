"""The loss that updates descend, summed on the device until it is logged."""

from typing import Any

import torch
from torch import Tensor

from metarun.trainer.update import Step


class Losses:
    """Sums over the updates since the last log of the loss and of its parts.

    Args:
        device: of the learner.
    """

    def __init__(self, device: torch.device) -> None:
        self.learner = torch.zeros((), device=device)
        """Sum of the learner's own loss, with the weights of tasks."""
        self.parts: dict[str, Tensor] = {}
        """Sums of "extra", what a continual method adds to the loss, and of "penalty"."""
        self.updates = 0

    def add(self, step: Step) -> None:
        """Count an update; one that was reverted has losses of 0."""
        self.learner += step.loss
        for name, part in {"extra": step.extra, "penalty": step.penalty}.items():
            if part is not None:
                self.parts.setdefault(name, torch.zeros_like(self.learner)).add_(part)
        self.updates += 1

    def means(self, reverted: int) -> dict[str, float]:
        """Means of "learner" and of the other parts over all updates but the ``reverted``; NaN if all were reverted.

        This waits for the device.
        """
        made = self.updates - reverted
        sums = {"learner": self.learner, **self.parts}
        return {name: float(total) / made if made else float("nan") for name, total in sums.items()}

    def clear(self) -> None:
        """Start a new sum."""
        self.learner.zero_()
        self.parts.clear()
        self.updates = 0

    def state_dict(self) -> dict[str, Any]:
        """Plain values, under the keys of a checkpoint."""
        parts = {name: float(total) for name, total in self.parts.items()}
        return {"loss": (float(self.learner), self.updates), "loss_parts": parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict`; early versions kept no parts."""
        learner, self.updates = state["loss"]
        self.learner.fill_(learner)
        device = self.learner.device
        self.parts = {name: torch.tensor(total, device=device) for name, total in state.get("loss_parts", {}).items()}

"""Boundaries between stages that nobody announces, detected from the loss."""

import math
from typing import Any

import torch
from torch import Tensor

from metarun.cl.memory import Memory
from metarun.data.source import Stage, TaskSource
from metarun.episodes import Episodes

REMEMBERED = 500
"""Tasks since the last detected boundary that stand for the stage that has ended."""
WARMUP, DECAY = 20, 0.95
"""Rounds after a boundary in which none is detected, and the decay of the running mean and variance of the loss."""


class BoundaryDetector:
    """A loss more than ``threshold`` standard deviations above its running mean begins a new stage.

    After Caccia et al., "Online fast adaptation and knowledge accumulation" (NeurIPS 2020), who compare the loss with its
    running value, too. A memory of the tasks since the last boundary stands for the stage that has ended.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.steps: list[int] = []
        """Rounds before which a boundary was detected."""
        self._restart()

    def _restart(self) -> None:
        self.memory = Memory()
        self.rounds, self.mean, self.variance = 0, 0.0, 0.0

    def detect(self, round_: int, loss: float) -> Stage | None:
        """The stage that has ended, if ``loss``, that of the tasks of round ``round_``, has jumped; else None.

        A loss that is not finite is no boundary.
        """
        excess = loss - self.mean
        if not math.isfinite(loss) or self.rounds < WARMUP or excess <= self.threshold * self.variance**0.5:
            return None
        past = Remembered(self.memory)
        self.steps.append(round_)
        self._restart()
        return Stage(f"before round {round_ + 1}", past, past, past)

    def observe(self, episodes: Episodes, loss: float) -> None:
        """Count the round's tasks and its loss to the present stage; a loss that is not finite leaves mean and variance alone.

        Which tasks the memory keeps is drawn from torch's generator.
        """
        self.memory.offer(episodes, REMEMBERED)
        if not math.isfinite(loss):
            return
        self.rounds += 1
        share = max(1 - DECAY, 1 / self.rounds)
        excess = loss - self.mean
        self.mean += share * excess
        self.variance = (1 - share) * (self.variance + share * excess**2)

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which `load_state_dict` continues."""
        counts = {"steps": self.steps, "rounds": self.rounds, "mean": self.mean, "variance": self.variance}
        return counts | {"memory": self.memory.state_dict()}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Continue from the result of `state_dict`."""
        self.steps, self.rounds, self.mean, self.variance = (state[key] for key in ("steps", "rounds", "mean", "variance"))
        self.memory.load_state_dict(state["memory"], device)


class Remembered(TaskSource):
    """The tasks in a memory, repeated without end.

    Raises:
        ValueError: the memory is empty.
    """

    def __init__(self, memory: Memory) -> None:
        if memory.stored is None:
            raise ValueError("the memory is empty")
        self.kept, self.size = memory.stored, len(memory)
        self.count = self.size

    def sample(self, ids: Tensor) -> Episodes:
        return self.kept.pick((ids % self.size).to(self.kept.query.x.device))

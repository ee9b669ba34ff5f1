"""A stream whose stages change unannounced: which stage each round is of, and boundaries guessed from jumps of the loss."""

import math
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from metarun.cl.memory import Memory
from metarun.data.source import Stage, TaskSource
from metarun.episodes import Episodes
from metarun.rng import bits, derive, uniform

REMEMBERED = 500
"""Tasks since the last guessed boundary that stand for the stage that has ended."""
WARMING, DECAY = 20, 0.95
"""Rounds after a boundary in which none is guessed, and how slowly the running mean and variance of the loss forget."""


def stages_of_rounds(seed: int, rounds: int, stages: int, switch: float) -> list[int]:
    """The number of the stage that each round's tasks come from.

    The first is 0; before each later round the stage changes with probability ``switch``, to any of the others. A round's stage
    is a function of the seed and of the rounds up to it, whatever ``rounds`` is.
    """
    changes = (uniform(derive(seed, "switch"), torch.arange(rounds), 1)[:, 0] < switch).tolist()
    steps = (1 + bits(derive(seed, "next stage"), torch.arange(rounds), 1)[:, 0] % max(stages - 1, 1)).tolist()
    found = [0]
    for change, step in zip(changes[1:], steps[1:], strict=True):
        found.append((found[-1] + step) % stages if change else found[-1])
    return found[:rounds]


def stretches(rounds: list[int], start: int) -> Iterator[tuple[int, int, int]]:
    """From round ``start`` on: number of a stage, and the first and the end of the rounds that follow one another in it."""
    for stage, group in groupby(range(start, len(rounds)), key=rounds.__getitem__):
        members = list(group)
        yield stage, members[0], members[-1] + 1


class Jumps:
    """Guesses boundaries: a loss more than ``threshold`` standard deviations above its running mean begins a new stage.

    After Caccia et al., "Online fast adaptation and knowledge accumulation" (NeurIPS 2020), who compare the loss with its
    running value, too. The tasks since the last boundary are remembered, and stand for the stage that has ended.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.steps: list[int] = []
        """Rounds before which a boundary was guessed."""
        self.memory = Memory()
        self._restart()

    def _restart(self) -> None:
        self.memory = Memory()
        self.rounds, self.mean, self.variance = 0, 0.0, 0.0

    def found(self, round_: int, loss: float) -> Stage | None:
        """The stage that has ended, if ``loss``, that of the tasks of round ``round_``, has jumped.

        A loss that is not finite is no boundary, and does not enter the running mean.
        """
        excess = loss - self.mean
        if not math.isfinite(loss) or self.rounds < WARMING or excess <= self.threshold * self.variance**0.5:
            return None
        past = Remembered(self.memory)
        self.steps.append(round_)
        self._restart()
        return Stage(f"before round {round_ + 1}", past, past, past)

    def observe(self, episodes: Episodes, loss: float) -> None:
        """Take the round's tasks and its loss for those of the present stage."""
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
        """Continue from what `state_dict` gave."""
        self.steps, self.rounds, self.mean, self.variance = (state[key] for key in ("steps", "rounds", "mean", "variance"))
        self.memory.load_state_dict(state["memory"], device)


class Remembered(TaskSource):
    """The tasks in a memory, again and again."""

    def __init__(self, memory: Memory) -> None:
        if memory.kept is None:
            raise ValueError("the memory is empty")
        self.kept, self.size = memory.kept, len(memory)
        self.count = self.size

    def sample(self, ids: Tensor) -> Episodes:
        return self.kept.pick((ids % self.size).to(self.kept.query.x.device))

"""What a run is made of and ends in: its position, its outcome, and the exceptions that end it early."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from metarun.trainer.headline import Headline


class Diverged(RuntimeError):
    """The training loss or a weight is no longer finite."""


class Pruned(RuntimeError):
    """A search has stopped the run, which could be continued from its checkpoint."""


@dataclass
class Position:
    """How far a run is: what a checkpoint holds besides the states of the learner, the method and the optimizer."""

    step: int = 0
    """Outer updates made, over all stages."""
    started: int = 0
    """Stages begun: their row of R is taken."""
    ended: int = 0
    """Stages trained to their end, consolidation included."""
    order: list[int] = field(default_factory=list)
    """Numbers of the stages in the order of training; those still to come as far as it is decided."""
    rows: list[list[list[float | None]]] = field(default_factory=list)
    """Rows of R so far, each for every number of inner steps that the headline is chosen among; columns by the stages' numbers."""
    online: list[float] = field(default_factory=list)
    """Score of each round of an online stream, taken before its labels were seen."""
    best: list[tuple[float, int]] = field(default_factory=list)
    """Validation score (higher is better) and step of the best weights, best first."""
    nonfinite: list[int] = field(default_factory=lambda: [0, 0])
    """Updates reverted because they were not finite, and tasks whose losses were not finite."""
    seconds: float = 0.0
    """Time spent in updates."""
    resumed_at: list[int] = field(default_factory=list)
    """Steps at which the run was continued from a checkpoint."""


@dataclass
class Outcome:
    """Result of a run, stages in the order of training: test scores (eval_steps, tasks), validation scores (tasks,), and R.

    Validation and test are of the same weights. Validation and R are after as many inner steps as the test has at ``look``.
    """

    stages: list[str]
    test: list[NDArray[np.float64]]
    validation: list[NDArray[np.float64]]
    rows: list[list[float | None]]
    position: Position
    headline: Headline
    look: int
    """Index of the headline's number of inner steps among those of the test."""
    rounds: list[int] | None = None
    """Of an online stream: the number of each round's stage."""
    boundaries: list[int] = field(default_factory=list)
    """Rounds before which a boundary was detected."""


def require_finite(loss: float, step: int) -> None:
    """Raises `Diverged` where the training loss at ``step`` is not finite."""
    if not np.isfinite(loss):
        raise Diverged(f"the training loss is {loss} at update {step}")

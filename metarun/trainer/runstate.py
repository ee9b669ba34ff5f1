"""The state of a run: everything that changes while it trains, and that a checkpoint holds."""

from dataclasses import asdict, dataclass
from typing import Any

from metarun.algo.algorithm import Algorithm
from metarun.cl.method import ContinualMethod
from metarun.data.source import Stage
from metarun.trainer.best import BestWeights
from metarun.trainer.detector import BoundaryDetector
from metarun.trainer.guard import Guard
from metarun.trainer.losses import Losses
from metarun.trainer.optimizer import OuterOptimizer
from metarun.trainer.state import Diverged, Position, require_finite


@dataclass
class RunState:
    """What the rooms of the trainer share.

    Attributes:
        given: the stages as the data has them.
        stages: the same in the order of training; the continual method has this very list.
        iterations: updates of a stage; 0 for a learner that trains nothing.
        guard, detector: None where `trainer.nonfinite` or `trainer.detect` asks for none.
    """

    algorithm: Algorithm
    method: ContinualMethod
    given: list[Stage]
    stages: list[Stage]
    iterations: int
    position: Position
    optimizer: OuterOptimizer
    losses: Losses
    best: BestWeights
    guard: Guard | None
    detector: BoundaryDetector | None

    @property
    def total(self) -> int:
        """Updates of all stages."""
        return self.iterations * len(self.stages)

    def take(self, order: list[int]) -> None:
        """Put the stages in this order, by their numbers."""
        self.position.order = order
        self.stages[:] = [self.given[i] for i in order]

    def grow(self, stage: int) -> None:
        """Let the method add the parameters of stage ``stage``, which the optimizer then has, too."""
        self.method.grow(self.algorithm, stage)
        self.optimizer.extend(self.algorithm.parameters())

    def require_finite(self) -> None:
        """Raises `Diverged` where a loss or a weight is not finite."""
        step = self.position.step
        require_finite(float(self.losses.learner), step)
        if not all(bool(w.isfinite().all()) for w in self.algorithm.parameters()):
            raise Diverged(f"a weight is not finite at update {step}")

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values from which `load_state_dict` continues to the same bytes."""
        return {
            "position": asdict(self.position),
            "algorithm": self.algorithm.state_dict(),
            "best": self.best.states,
            **self.optimizer.state_dict(),
            "method": self.method.state_dict(),
            "jumps": self.detector.state_dict() if self.detector else None,
            **self.losses.state_dict(),
            "nonfinite": self.guard.counts if self.guard else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the result of `state_dict`, in a state as it was before the first stage."""
        vars(self.position).update(vars(Position(**state["position"])))
        self.take(self.position.order)
        for stage in range(self.position.started):
            self.grow(stage)
        self.algorithm.load_state_dict(state["algorithm"])
        self.best.states = state["best"]
        self.optimizer.load_state_dict(state)
        self.method.load_state_dict(state["method"])
        if self.detector:
            self.detector.load_state_dict(state["jumps"], self.losses.learner.device)
        self.losses.load_state_dict(state)
        if self.guard and state.get("nonfinite") is not None:
            self.guard.counts.copy_(state["nonfinite"])

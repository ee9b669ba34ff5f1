"""Memory aware synapses (Aljundi et al., ECCV 2018): importance from how much the output reacts to a weight."""

from metarun.algo.algorithm import Algorithm
from metarun.cl.fisher import sensitivity
from metarun.cl.penalty import QuadraticPenalty, Switch
from metarun.config import require
from metarun.data.source import Stage
from metarun.model.network import Weights


class MAS(QuadraticPenalty):
    """λ · Σ Ω (θ − θ*)², equation 4 of the paper; Ω is the mean over examples of |∂ ‖f(x)‖² / ∂θ|, section 4.1, summed over stages.

    Args:
        strength: λ.
        samples: episodes (examples) to measure on; null: all examples of a stream, and 500 episodes of other tasks.
        consolidate, penalise: see `QuadraticPenalty`.
    """

    def __init__(self, strength: float, samples: int | None = None, consolidate: Switch = True, penalise: Switch = True) -> None:
        super().__init__(strength, consolidate, penalise)
        require(samples is None or samples > 0, "samples", samples, "1 or more, or null")
        self.samples = samples

    def measure(self, algorithm: Algorithm, stage: Stage) -> Weights:
        # Twice: the paper's penalty has no half.
        return {name: 2 * omega for name, omega in sensitivity(algorithm, stage.train, self.samples).items()}

    def remember(self, importance: Weights, weights: Weights) -> None:
        self.move_anchor(importance, weights)

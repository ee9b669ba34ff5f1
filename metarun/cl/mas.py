"""Memory aware synapses (Aljundi et al., ECCV 2018): the importance of a weight is the sensitivity of the output to it."""

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
        samples: number of episodes (examples) to measure on; null: all examples of a stream, 500 episodes of few-shot tasks.
        consolidate, penalise: see `QuadraticPenalty`.
    """

    def __init__(self, strength: float, samples: int | None = None, consolidate: Switch = True, penalise: Switch = True) -> None:
        super().__init__(strength, consolidate, penalise)
        require(samples is None or samples > 0, "samples", samples, "1 or more, or null")
        self.samples = samples

    def measure(self, algorithm: Algorithm, stage: Stage) -> Weights:
        # Factor 2: the paper's penalty has no factor 1/2.
        return {name: 2 * omega for name, omega in sensitivity(algorithm, stage.train, self.samples).items()}

    def remember(self, importance: Weights, weights: Weights) -> None:
        self.move_anchor(importance, weights)

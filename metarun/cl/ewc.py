"""Elastic weight consolidation (Kirkpatrick et al., PNAS 2017): a penalty a stage, weighted by the diagonal of the Fisher."""

from typing import Literal

from metarun.algo.algorithm import Algorithm
from metarun.cl.fisher import Labels, fisher
from metarun.cl.penalty import QuadraticPenalty, Switch
from metarun.config import require
from metarun.data.source import Stage
from metarun.model.network import Weights

Normalise = Literal["none", "mean", "max"]


class EWC(QuadraticPenalty):
    """Equation 3 of the paper: strength / 2 · Σ over past stages of F · (θ − θ*)², F and θ* measured at each stage's end.

    Args:
        strength: λ.
        labels: whose score the Fisher squares, see `fisher`.
        samples: episodes (examples) to measure it on; null: all examples of a stream, and 500 episodes of other tasks.
        normalise: divide each stage's Fisher by its "mean" or "max" over all weights, so that stages count alike and the
            strength travels between data sets; "none".
        consolidate, penalise: see `QuadraticPenalty`.
    """

    def __init__(
        self,
        strength: float,
        labels: Labels = "sampled",
        samples: int | None = None,
        normalise: Normalise = "none",
        consolidate: Switch = True,
        penalise: Switch = True,
    ) -> None:
        super().__init__(strength, consolidate, penalise)
        require(samples is None or samples > 0, "samples", samples, "1 or more, or null")
        self.labels, self.samples, self.normalise = labels, samples, normalise

    def measure(self, algorithm: Algorithm, stage: Stage) -> Weights:
        measured = fisher(algorithm, stage.train, self.labels, self.samples)
        found = {name: f for name, f in measured.items() if name not in self.per_stage}
        if self.normalise == "none":
            return found
        total, count = sum(float(f.double().sum()) for f in found.values()), sum(f.numel() for f in found.values())
        scale = total / count if self.normalise == "mean" else float(max(f.max() for f in found.values()))
        return {name: f / max(scale, 1e-30) for name, f in found.items()}

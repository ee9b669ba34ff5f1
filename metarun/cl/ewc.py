"""Elastic weight consolidation (Kirkpatrick et al., PNAS 2017): one penalty per stage, weighted by the diagonal of the Fisher."""

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
        labels: whose score is squared in the Fisher, see `metarun.cl.fisher.Labels`.
        samples: number of episodes (examples) to measure it on; null: all examples of a stream, 500 episodes of few-shot tasks.
        normalise: divide each stage's Fisher by its "mean" or "max" over all weights, so that stages have equal weight and a
            strength transfers between data sets; or "none".
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
        shared = {name: f for name, f in measured.items() if name not in self.per_stage}
        if self.normalise == "none":
            return shared
        total, count = sum(float(f.double().sum()) for f in shared.values()), sum(f.numel() for f in shared.values())
        scale = total / count if self.normalise == "mean" else float(max(f.max() for f in shared.values()))
        return {name: f / max(scale, 1e-30) for name, f in shared.items()}

"""L2: a uniform penalty around past weights, EWC with F = 1 (the control in Kirkpatrick et al., PNAS 2017, figure 2)."""

import torch

from metarun.algo.algorithm import Algorithm
from metarun.cl.penalty import QuadraticPenalty
from metarun.data.source import Stage
from metarun.model.network import Weights


class L2(QuadraticPenalty):
    """Strength / 2 · Σ over past stages of (θ − θ*)².

    Args:
        strength, consolidate, penalise: see `QuadraticPenalty`.
    """

    def measure(self, algorithm: Algorithm, stage: Stage) -> Weights:
        return {name: torch.ones_like(w) for name, w in algorithm.named_parameters()}

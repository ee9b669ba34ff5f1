"""Meta-SGD (Li, Zhou, Chen and Li, 2017)."""

from typing import Any

from metarun.algo.algorithm import one_head
from metarun.algo.gradient_learner import UnrolledLearner
from metarun.algo.rules import Descent, LearnedRates, Rule
from metarun.config import require
from metarun.episodes import TaskSpec
from metarun.model.network import NetworkFactory


class MetaSGD(UnrolledLearner):
    """Learn the initialisation and the rate at which each weight adapts (Algorithm 1 and equation 2).

    A rate may become negative: it sets the direction of a step as well as its length.

    Args:
        spec, network: the tasks, and the configured `model`.
        inner_lr: initial rate of every weight, or [low, high] of a uniform distribution.
        test_steps: inner steps in validation and test; the paper takes one, as in training.
        common: see `UnrolledLearner`.
    """

    def __init__(
        self, spec: TaskSpec, network: NetworkFactory, inner_lr: float | tuple[float, float], *, test_steps: int = 1, **common: Any
    ) -> None:
        super().__init__(spec, network(one_head(spec)), test_steps=test_steps, **common)
        low, high = inner_lr if isinstance(inner_lr, tuple) else (inner_lr, inner_lr)
        require(0 < low <= high, "inner_lr", inner_lr, "a number above 0, or [low, high]")
        self.rates = LearnedRates(self.adapting(), (low, high), each="weight")

    def rule(self) -> Rule:
        return Descent(self.rates)

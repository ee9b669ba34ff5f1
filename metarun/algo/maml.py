"""Model-agnostic meta-learning (Finn, Abbeel and Levine, ICML 2017), second and first order."""

from typing import Any

from metarun.algo.algorithm import one_head
from metarun.algo.gradient_learner import UnrolledLearner
from metarun.algo.rules import Descent, Rule
from metarun.config import require
from metarun.episodes import TaskSpec
from metarun.model.network import NetworkFactory, matching


class MAML(UnrolledLearner):
    """Learn an initialisation from which a few gradient steps on a support set go far (Algorithm 1 and equation 1).

    The outer gradient goes through the inner steps. With ``first_order`` it takes the inner gradients for constants, so it is
    the query gradient at the adapted weights (section 5.2 of the paper).

    Args:
        spec, network: the tasks, and the configured `model`.
        inner_lr: rate of the inner steps, on the mean support loss of a task. Papers that sum over the classes of an N-way task
            quote a rate N times smaller.
        frozen: patterns (`norms.*`) of weights that do not adapt in the inner loop.
        common: see `UnrolledLearner`.
    """

    def __init__(
        self, spec: TaskSpec, network: NetworkFactory, inner_lr: float, frozen: tuple[str, ...] = (), **common: Any
    ) -> None:
        super().__init__(spec, network(one_head(spec)), **common)
        require(inner_lr > 0, "inner_lr", inner_lr, "a number above 0")
        self.inner_lr = inner_lr
        names = self.network.weights()
        self.frozen = matching(names, frozen)
        require(not frozen or bool(self.frozen), "frozen", list(frozen), f"patterns of weights among {', '.join(names)}")
        require(len(self.frozen) < len(names), "frozen", list(frozen), "patterns that leave a weight to adapt")

    def rule(self) -> Rule:
        return Descent(self.inner_lr)

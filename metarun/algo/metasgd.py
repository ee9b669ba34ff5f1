"""Meta-SGD (Li, Zhou, Chen and Li, 2017)."""

from metarun.algo.algorithm import BatchNormMode
from metarun.algo.inner_loop import Descent, GradientLearner, LearnedRates, Rule, one_head
from metarun.config import require
from metarun.episodes import TaskSpec
from metarun.model.network import NetworkFactory


class MetaSGD(GradientLearner):
    """Learn the initialisation and, for every weight, the rate at which it adapts (Algorithm 1 and equation 2).

    A rate may become negative: with the gradient it gives the direction of a step as well as its length.

    Args:
        inner_lr: initial rate of every weight, or [low, high] of a uniform distribution.
        inner_steps, test_steps: inner steps in training, and in validation and test; the paper takes one.
        first_order: leave out the second derivatives.
        batch_norm: see `MAML`.
        recompute: compute inner steps twice and keep one step's activations at a time.
        task_chunk: tasks taken at once, which bounds memory; null: what suits the network and the device.
    """

    def __init__(
        self,
        spec: TaskSpec,
        network: NetworkFactory,
        inner_lr: float | tuple[float, float],
        inner_steps: int = 1,
        test_steps: int = 1,
        first_order: bool = False,
        batch_norm: BatchNormMode = "transductive",
        recompute: bool = False,
        task_chunk: int | None = None,
    ) -> None:
        super().__init__(
            spec,
            inner_steps=inner_steps,
            test_steps=test_steps,
            first_order=first_order,
            batch_norm=batch_norm,
            recompute=recompute,
            task_chunk=task_chunk,
        )
        low, high = inner_lr if isinstance(inner_lr, tuple) else (inner_lr, inner_lr)
        require(0 < low <= high, "inner_lr", inner_lr, "a number above 0, or [low, high]")
        self.network = network(one_head(spec))
        self.rates = LearnedRates(self.adapting(), (low, high), each="weight")

    def rule(self) -> Rule:
        return Descent(self.rates)

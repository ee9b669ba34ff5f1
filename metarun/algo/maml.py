"""Model-agnostic meta-learning (Finn, Abbeel and Levine, ICML 2017), second and first order."""

from metarun.algo.algorithm import BatchNormMode
from metarun.algo.inner_loop import Descent, GradientLearner, Rule, matching, one_head
from metarun.config import require
from metarun.episodes import TaskSpec
from metarun.model.network import NetworkFactory


class MAML(GradientLearner):
    """Learn an initialisation from which a few gradient steps on a support set go far (Algorithm 1 and equation 1).

    The outer gradient goes through the inner steps. With ``first_order`` it takes the inner gradients for constants, so it is
    the query gradient at the adapted weights (section 5.2 of the paper).

    Args:
        inner_lr: rate of the inner steps, on the mean support loss of a task. Papers that sum over the classes of an N-way task
            quote a rate N times smaller.
        inner_steps: inner steps in training.
        test_steps: inner steps in validation and test.
        first_order: leave out the second derivatives.
        batch_norm: "transductive" (support and query each by their own statistics, as in the paper's code), "support" (a query
            by those of its support set at the adapted weights), or "running".
        frozen: patterns (`norms.*`) of weights that do not adapt in the inner loop.
        recompute: compute inner steps twice and keep one step's activations at a time.
        task_chunk: tasks taken at once, which bounds memory; null: what suits the network and the device.
    """

    def __init__(
        self,
        spec: TaskSpec,
        network: NetworkFactory,
        inner_lr: float,
        inner_steps: int = 1,
        test_steps: int = 10,
        first_order: bool = False,
        batch_norm: BatchNormMode = "transductive",
        frozen: tuple[str, ...] = (),
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
        require(inner_lr > 0, "inner_lr", inner_lr, "a number above 0")
        self.inner_lr = inner_lr
        self.network = network(one_head(spec))
        names = self.network.weights()
        self.frozen = matching(names, frozen)
        require(not frozen or bool(self.frozen), "frozen", list(frozen), f"patterns of weights among {', '.join(names)}")
        require(len(self.frozen) < len(names), "frozen", list(frozen), "patterns that leave a weight to adapt")

    def rule(self) -> Rule:
        return Descent(self.inner_lr)

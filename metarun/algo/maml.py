"""Model-agnostic meta-learning (Finn, Abbeel and Levine, ICML 2017), second and first order."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import NamedTuple

import torch
from torch import Tensor

from metarun.algo.algorithm import Algorithm, BatchNormMode, task_losses
from metarun.algo.inner_loop import inner_loop
from metarun.config import RangeError, require
from metarun.episodes import Examples, TaskSpec
from metarun.model.network import NetworkFactory, Weights
from metarun.model.norm import Norm, Statistics


class Adapted(NamedTuple):
    """Each task's weights, with the statistics that its queries are normalised with (None: their own)."""

    weights: Weights
    statistics: Statistics | None


class MAML(Algorithm):
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
        task_chunk: int | None = None,
    ) -> None:
        super().__init__(spec, task_chunk)
        require(inner_lr > 0, "inner_lr", inner_lr, "a number above 0")
        require(inner_steps > 0, "inner_steps", inner_steps, "1 or more")
        require(test_steps >= 0, "test_steps", test_steps, "0 or more")
        require(task_chunk is None or task_chunk > 0, "task_chunk", task_chunk, "1 or more, or null")
        if spec.train_outputs != spec.outputs:
            raise RangeError("data.train_ways", spec.train_outputs, f"data.ways ({spec.outputs}): the head has one size")
        self.network = network(spec.outputs)
        self.inner_lr, self.inner_steps, self.steps = inner_lr, inner_steps, test_steps
        self.first_order, self.batch_norm = first_order, batch_norm
        names = self.network.weights()
        self.frozen = frozenset(name for name in names if any(fnmatchcase(name, pattern) for pattern in frozen))
        require(not frozen or bool(self.frozen), "frozen", list(frozen), f"patterns of weights among {', '.join(names)}")
        require(len(self.frozen) < len(names), "frozen", list(frozen), "patterns that leave a weight to adapt")

    def adapt(self, support: Examples, steps: int | None = None) -> Adapted:
        for weights in self._walk(support, steps):
            last = weights
        return self._adapted(last, support)

    def predict(self, state: Adapted, x: Tensor) -> Tensor:
        norm = self.norm(query=True) if state.statistics is None else Norm(state.statistics)
        out = self.network(state.weights, x, norm)
        self.observe(norm)
        return out

    def trajectory(self, support: Examples, x: Tensor, steps: int | None = None) -> Tensor:
        return torch.stack([self.predict(self._adapted(weights, support), x) for weights in self._walk(support, steps)])

    def _walk(self, support: Examples, steps: int | None) -> Iterator[Weights]:
        def losses(weights: Weights) -> Tensor:
            return task_losses(self.network(weights, support.x, self.norm(query=False)), support.y)

        return inner_loop(
            losses,
            self.network.weights(),
            tasks=support.x.shape[0],
            rate=self.inner_lr,
            steps=self.inner_steps if steps is None else steps,
            first_order=self.first_order,
            frozen=self.frozen,
        )

    def _adapted(self, weights: Weights, support: Examples) -> Adapted:
        if self.batch_norm != "support":
            return Adapted(weights, None)
        norm = Norm(record="graph")
        self.network(weights, support.x, norm)
        return Adapted(weights, norm.seen)

"""ANIL, almost no inner loop (Raghu, Raghu, Bengio and Vinyals, ICLR 2020)."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metarun.algo.algorithm import Algorithm, one_head
from metarun.algo.inner_loop import inner_loop
from metarun.algo.rules import Descent
from metarun.config import require
from metarun.episodes import Examples, TaskSpec
from metarun.model.layers import linear
from metarun.model.network import NetworkFactory, Weights, embedding_width
from metarun.model.norm import Statistics


class Heads(NamedTuple):
    """Each task's head after 0 … steps inner steps, with the statistics that queries are normalised with (None: their own)."""

    path: list[Weights]
    statistics: Statistics | None


class ANIL(Algorithm):
    """MAML whose inner loop adapts the linear head alone (section 4 of the paper).

    The body embeds support and queries once an update, whatever the number of inner steps; the outer loop trains body and
    head, through the inner steps.

    Args:
        spec, network: the tasks, and the configured `model`.
        inner_lr: rate of the inner steps, on the mean support loss.
        inner_steps, test_steps: inner steps in training, and in validation and test.
        first_order: leave out the second derivatives (the body still learns through the features).
        common: see `Algorithm`.
    """

    def __init__(
        self,
        spec: TaskSpec,
        network: NetworkFactory,
        inner_lr: float,
        inner_steps: int = 5,
        test_steps: int = 10,
        first_order: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(spec, **common)
        require(inner_lr > 0, "inner_lr", inner_lr, "a number above 0")
        require(inner_steps > 0, "inner_steps", inner_steps, "1 or more")
        require(test_steps >= 0, "test_steps", test_steps, "0 or more")
        self.inner_lr, self.inner_steps, self.steps, self.first_order = inner_lr, inner_steps, test_steps, first_order
        self.network = network(None)
        self.head = nn.Linear(embedding_width(self.network, spec.input_shape), one_head(spec))

    def head_weights(self) -> Iterable[Tensor]:
        return self.head.parameters()

    def adapt(self, support: Examples, steps: int | None = None) -> Heads:
        features, statistics = self.embed_support(support.x)

        def losses(step: int, head: Weights) -> Tensor:
            return self.spec.kind.losses(linear(features, head["weight"], head["bias"]), support.y)

        path = inner_loop(
            losses,
            dict(self.head.named_parameters()),
            support.x.shape[0],
            Descent(self.inner_lr),
            self.inner_steps if steps is None else steps,
            first_order=self.first_order,
        )
        return Heads([head for head, _ in path], statistics)

    def predict(self, state: Heads, x: Tensor) -> Tensor:
        last = state.path[-1]
        return linear(self.embed_queries(x, state.statistics), last["weight"], last["bias"])

    def trajectory(self, support: Examples, x: Tensor, steps: int | None = None) -> Tensor:
        state = self.adapt(support, steps)
        features = self.embed_queries(x, state.statistics)
        heads = [state.path[step] for step in self.eval_steps(len(state.path) - 1)]
        return torch.stack([linear(features, head["weight"], head["bias"]) for head in heads])

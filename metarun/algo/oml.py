"""Online-aware meta-learning (Javed and White, "Meta-learning representations for continual learning", NeurIPS 2019)."""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metarun.algo.algorithm import Algorithm, BatchNormMode
from metarun.algo.by_length import by_length, findings_by_length, last
from metarun.config import require
from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.model.layers import linear
from metarun.model.network import NetworkFactory, embedding_width
from metarun.model.norm import Statistics
from metarun.report.findings import Finding, Probes


class Predictor(NamedTuple):
    """The prediction network of each task: weights (T, outputs, d) and biases (T, outputs)."""

    weight: Tensor
    bias: Tensor
    statistics: Statistics | None
    """What queries are normalised with; None: their own, or running ones."""


class OML(Algorithm):
    """A representation that lets a linear predictor learn a stream without forgetting.

    A task is a trajectory: its support set in the order given, class by class or function by function. The predictor is updated
    once on each example, the representation stays as it is; the loss is that of the queries of all classes when the stream has
    passed, and its gradient goes through the whole trajectory (the OML objective). Here all classes of a task start from one and
    the same learned row of the predictor, so that a test may have other ways than training. Left out: the paper's
    predictor has an output for each class of the data set, and its meta-loss adds examples of classes outside the trajectory.

    Args:
        spec, network: the tasks, and the configured `model`.
        inner_lr: rate of the predictor's steps.
        inner_batch: support examples of a step.
        batch_norm: see `Algorithm`; under "running", support and queries are one batch in training.
        common: see `Algorithm`.
    """

    def __init__(
        self,
        spec: TaskSpec,
        network: NetworkFactory,
        inner_lr: float,
        inner_batch: int = 1,
        batch_norm: BatchNormMode = "running",
        **common: Any,
    ) -> None:
        super().__init__(spec, batch_norm=batch_norm, **common)
        require(inner_lr > 0, "inner_lr", inner_lr, "a number above 0")
        require(inner_batch > 0, "inner_batch", inner_batch, "1 or more")
        self.inner_lr, self.inner_batch = inner_lr, inner_batch
        self.network = network(None)
        width = embedding_width(self.network, spec.input_shape)
        self.head = nn.Linear(width, 1 if spec.kind.classes else spec.outputs)

    def head_weights(self) -> Iterable[Tensor]:
        return () if self.spec.kind.classes else self.head.parameters()  # all classes start from one row

    def walk(self, support: Examples, embedded: tuple[Tensor, Statistics | None] | None = None) -> Iterator[Predictor]:
        """The predictor after 0, 1, … steps; ``embedded``: the support set, where that is known."""
        features, statistics = embedded or self.embed_support(support.x)
        tasks, outputs = len(features), support.ways or self.spec.outputs
        labels = support.targets(features.dtype)
        now = Predictor(self.head.weight.expand(tasks, outputs, -1), self.head.bias.expand(tasks, outputs), statistics)
        yield now
        for x, y in zip(features.split(self.inner_batch, 1), labels.split(self.inner_batch, 1), strict=True):
            # The gradient of the mean loss by hand, as it is that of one linear layer: the outer gradient goes through it all the
            # same, and a step is three small products.
            out = linear(x, now.weight, now.bias)
            error = (out.softmax(-1) if support.ways else 2 * out) - (y if support.ways else 2 * y)
            error = error / (x.shape[1] if support.ways else y[0].numel())
            now = Predictor(now.weight - self.inner_lr * error.mT @ x, now.bias - self.inner_lr * error.sum(1), statistics)
            yield now

    def adapt(self, support: Examples, steps: int | None = None) -> Predictor:
        return last(self.walk(support))

    def predict(self, state: Predictor, x: Tensor) -> Tensor:
        return linear(self.embed_queries(x, state.statistics), state.weight, state.bias)

    def losses(self, episodes: Episodes) -> Tensor:
        if self.batch_norm != "running" or not self.training:
            return super().losses(episodes)
        support, query = episodes.support, episodes.query
        n = support.x.shape[1]
        both = self.embed_pooled(torch.cat([support.x, query.x], 1))
        state = last(self.walk(support, (both[:, :n], None)))
        return self.spec.kind.losses(linear(both[:, n:], state.weight, state.bias), query.y)

    def probe(self, episodes: Episodes) -> dict[str, Tensor]:
        return by_length(self, self.walk(episodes.support), episodes, self.inner_batch)

    def findings(self, probes: Probes) -> list[Finding]:
        return findings_by_length(self, probes)

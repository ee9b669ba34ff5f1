"""Prototypical networks (Snell, Swersky and Zemel, NeurIPS 2017)."""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from metarun.algo.algorithm import Algorithm, BatchNormMode
from metarun.algo.metric_space import class_means, squared_distances
from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.kinds import Classification, Kind
from metarun.model.network import NetworkFactory, embedding_width
from metarun.model.norm import Statistics


class Prototypes(NamedTuple):
    """Mean embedding of each class, (T, ways, d), with the statistics that queries are normalised with (None: their own)."""

    means: Tensor
    statistics: Statistics | None


class ProtoNet(Algorithm):
    """Classify by the nearest class mean in a learned embedding (Algorithm 1; equations 1 and 2, squared Euclidean distance).

    Args:
        spec, network: the tasks, and the configured `model`.
        batch_norm: see `Algorithm`; under "running", as in the paper's code, support and queries are one batch in training.
        common: see `Algorithm`.
    """

    kinds: ClassVar[tuple[type[Kind], ...]] = (Classification,)
    feedforward: ClassVar[bool] = True

    def __init__(self, spec: TaskSpec, network: NetworkFactory, batch_norm: BatchNormMode = "running", **common: Any) -> None:
        super().__init__(spec, batch_norm=batch_norm, **common)
        self.network = network(None)
        embedding_width(self.network, spec.input_shape)  # refuses what is no vector

    def adapt(self, support: Examples, steps: int | None = None) -> Prototypes:
        embedded, statistics = self.embed_support(support.x)
        return Prototypes(class_means(embedded, support), statistics)

    def predict(self, state: Prototypes, x: Tensor) -> Tensor:
        return -squared_distances(self.embed_queries(x, state.statistics), state.means)

    def losses(self, episodes: Episodes) -> Tensor:
        if self.batch_norm != "running" or not self.training:
            return super().losses(episodes)
        support, query = episodes.support, episodes.query
        embedded = self.embed_pooled(torch.cat([support.x, query.x], 1))
        n = support.x.shape[1]
        return self.spec.kind.losses(-squared_distances(embedded[:, n:], class_means(embedded[:, :n], support)), query.y)

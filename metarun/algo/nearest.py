"""The nearest-neighbour baseline, on raw inputs or in an embedding that was trained on the pooled training classes."""

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from metarun.algo.algorithm import BatchNormMode
from metarun.algo.metric_space import squared_distances
from metarun.algo.pooled import PooledTraining
from metarun.episodes import Examples, TaskSpec
from metarun.model.network import NetworkFactory
from metarun.model.norm import Statistics


class Neighbours(NamedTuple):
    """A support set in the space where distances are taken, (T, n, d), and what queries are normalised with."""

    points: Tensor
    support: Examples
    statistics: Statistics | None


class Nearest(PooledTraining):
    """A query is what the support example nearest to it is (Euclidean distance).

    The embedding is that of `Finetune`: one network for all training classes, or one function for all tasks.

    Args:
        spec, network: the tasks, and the configured `model`.
        space: "inputs", which trains nothing, or "embedding".
        batch_norm: of the embedding in a test; see `Algorithm`.
        common: see `Algorithm`.
    """

    def __init__(
        self,
        spec: TaskSpec,
        network: NetworkFactory,
        space: Literal["inputs", "embedding"] = "inputs",
        batch_norm: BatchNormMode = "running",
        **common: Any,
    ) -> None:
        super().__init__(spec, batch_norm=batch_norm, **common)
        self.network, self.space, self.trains = network(None), space, space == "embedding"
        self.add_pooled_head()

    def adapt(self, support: Examples, steps: int | None = None) -> Neighbours:
        points, statistics = (support.x.flatten(2), None) if self.space == "inputs" else self.embed_support(support.x)
        return Neighbours(points, support, statistics)

    def predict(self, state: Neighbours, x: Tensor) -> Tensor:
        points = x.flatten(2) if self.space == "inputs" else self.embed_queries(x, state.statistics)
        distances = squared_distances(points, state.points)
        if not state.support.ways:
            nearest = distances.argmin(-1, keepdim=True).expand(-1, -1, state.support.y.shape[-1])
            # Where a distance is not finite, the argmin is no neighbour.
            known = distances.isfinite().all(-1, keepdim=True)
            return state.support.y.gather(1, nearest).masked_fill(~known, torch.nan)
        # The distance to a class is that to the nearest of its examples. A class without any is further than all others, but not
        # infinitely far: a prediction that is not finite counts as failed.
        far = torch.finfo(distances.dtype).max
        among = [distances.masked_fill((state.support.y != c).unsqueeze(1), far).amin(-1) for c in range(state.support.ways)]
        return -torch.stack(among, -1)

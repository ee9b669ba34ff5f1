"""Relation networks (Sung, Yang, Zhang, Xiang, Torr and Hospedales, CVPR 2018)."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.algo.algorithm import Algorithm
from metarun.config import require
from metarun.episodes import Episodes, Examples, TaskSpec, one_hot
from metarun.kinds import Classification, Kind
from metarun.model.layers import as_images, convolve, max_pool
from metarun.model.network import Network, NetworkFactory, Weights, embedding_shape
from metarun.model.norm import Norm


class RelationNet(Algorithm):
    """Classify by a learned relation between a query and each class (section 3.2), trained by squared error to 1 or 0 (equation 2).

    A class is the sum of its support images' feature maps (section 3.2.2). The relation module joins them to a query's, and ends
    in a score from 0 to 1: two convolutions and two linear layers on feature maps, the linear layers alone on vectors.

    Args:
        spec, network: the tasks, and the configured `model`.
        filters: of the relation module's convolutions.
        hidden: units of its hidden linear layer.
        batch_norm: whose statistics normalise queries and relations: "transductive" (each batch's own, as in the released code),
            or "running".
        common: see `Algorithm`.
    """

    kinds: ClassVar[tuple[type[Kind], ...]] = (Classification,)
    feedforward: ClassVar[bool] = True

    def __init__(
        self,
        spec: TaskSpec,
        network: NetworkFactory,
        filters: int = 64,
        hidden: int = 8,
        batch_norm: Literal["transductive", "running"] = "transductive",
        **common: Any,
    ) -> None:
        super().__init__(spec, batch_norm=batch_norm, **common)
        require(filters > 0, "filters", filters, "1 or more")
        require(hidden > 0, "hidden", hidden, "1 or more")
        self.network = network(None)
        self.relation = RelationModule(embedding_shape(self.network, spec.input_shape), filters, hidden)

    def adapt(self, support: Examples, steps: int | None = None) -> Tensor:
        """The sum of the feature maps of each class, (T, ways, *shape)."""
        maps, _ = self.embed_support(support.x)
        members = support.one_hot(maps.dtype)
        sums = members.mT @ maps.flatten(2)
        return sums.view(*sums.shape[:2], *maps.shape[2:])

    def predict(self, state: Tensor, x: Tensor) -> Tensor:
        queries = self.embed_queries(x)
        norm = self.norm(query=True, statistics=self.relation.statistics)
        scores = self.relation.relate(self.relation.weights(), state, queries, norm)
        self.observe(norm, self.relation.statistics)
        return scores

    def losses(self, episodes: Episodes) -> Tensor:
        scores = self.predict(self.adapt(episodes.support), episodes.query.x)
        return (scores - one_hot(episodes.query.y, scores.shape[-1], scores.dtype)).square().flatten(1).mean(1)


class RelationModule(Network):
    """Scores of pairs of feature maps.

    Args:
        shape: of one map, (C, H, W), or (d,) of a vector.
        filters, hidden: see `RelationNet`.
    """

    def __init__(self, shape: tuple[int, ...], filters: int, hidden: int) -> None:
        super().__init__()
        self.film = {}
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        inputs = 2 * shape[0]
        if len(shape) == 3:
            self.convs.extend(nn.Conv2d(2 * shape[0] if i == 0 else filters, filters, 3, padding=1, bias=False) for i in range(2))
            self.norms.extend(nn.BatchNorm2d(filters, track_running_stats=False) for _ in range(2))
            require(min(shape[1:]) >= 4, "model", "conv4", f"maps of 4×4 at least, not {shape[1:]}: model.halvings=2")
            inputs = filters * (shape[1] // 4) * (shape[2] // 4)
        self.ends = nn.ModuleList([nn.Linear(inputs, hidden), nn.Linear(hidden, 1)])
        self.add_running_statistics({str(i): filters for i in range(len(self.convs))})

    def relate(self, weights: Weights, classes: Tensor, queries: Tensor, norm: Norm) -> Tensor:
        """``classes`` (T, ways, *shape) and ``queries`` (T, n, *shape) → scores from 0 to 1, (T, n, ways)."""
        tasks, n, ways = len(queries), queries.shape[1], classes.shape[1]
        if self.convs:
            # A convolution of two maps joined is the sum of one over each: of n + ways maps then, not of n · ways.
            of_class, of_query = weights["convs.0.weight"].chunk(2, 1)
            a, b = (convolve(as_images(x), w) for x, w in ((classes, of_class), (queries, of_query)))
            x = (a.unsqueeze(0) + b.unsqueeze(1)).flatten(0, 1)  # (n · ways, T, filters, H, W)
            for i in range(2):
                x = x if i == 0 else convolve(x, weights[f"convs.{i}.weight"])
                x = max_pool(norm(str(i), x, weights[f"norms.{i}.weight"], weights[f"norms.{i}.bias"])).relu()
            x = x.flatten(2).transpose(0, 1)
        else:
            pairs = (classes.unsqueeze(1).expand(-1, n, -1, -1), queries.unsqueeze(2).expand(-1, -1, ways, -1))
            x = torch.cat(pairs, -1).flatten(1, 2)
        x = F.linear(x, weights["ends.0.weight"], weights["ends.0.bias"]).relu()
        return F.linear(x, weights["ends.1.weight"], weights["ends.1.bias"]).sigmoid().view(tasks, n, ways)

"""Matching networks (Vinyals, Blundell, Lillicrap, Kavukcuoglu and Wierstra, NeurIPS 2016)."""

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.algo.algorithm import Algorithm, BatchNormMode
from metarun.config import require
from metarun.episodes import Examples, TaskSpec
from metarun.kinds import Classification, Kind
from metarun.model.network import NetworkFactory, embedding_width
from metarun.model.norm import Statistics


class Memory(NamedTuple):
    """A support set's embeddings (T, n, d) and labels one-hot (T, n, ways), with what queries are normalised with."""

    keys: Tensor
    labels: Tensor
    statistics: Statistics | None


class MatchingNet(Algorithm):
    """Classify by attention over the support set: the sum of its labels, weighted by a softmax of cosine similarity (equation 1).

    Full context embeddings (section 2.1.2, appendix A) let an embedding depend on the whole support set: a bidirectional LSTM
    reads the support set in the order given, a query is refined by an LSTM that attends to it ``read_steps`` times. Queries do not
    see each other. Support sets come class by class, in training and in a test, so that predictions depend on the order of the
    classes.

    Args:
        spec, network: the tasks, and the configured `model`.
        context: full context embeddings.
        read_steps: reads of the support set in a query's embedding, with ``context``.
        sharpness: factor of the cosine in the softmax; the paper has none, 1.
        batch_norm: see `Algorithm`.
        common: see `Algorithm`.
    """

    kinds: ClassVar[tuple[type[Kind], ...]] = (Classification,)
    feedforward: ClassVar[bool] = True

    def __init__(
        self,
        spec: TaskSpec,
        network: NetworkFactory,
        context: bool = False,
        read_steps: int = 5,
        sharpness: float = 1.0,
        batch_norm: BatchNormMode = "running",
        **common: Any,
    ) -> None:
        super().__init__(spec, batch_norm=batch_norm, **common)
        require(read_steps > 0, "read_steps", read_steps, "1 or more")
        require(sharpness > 0, "sharpness", sharpness, "a number above 0")
        self.network, self.read_steps, self.sharpness = network(None), read_steps, sharpness
        width = embedding_width(self.network, spec.input_shape)
        self.of_support: nn.LSTM | None = None
        if context:
            self.of_support = nn.LSTM(width, width, batch_first=True, bidirectional=True)
            self.of_query = nn.LSTMCell(2 * width, width)

    def adapt(self, support: Examples, steps: int | None = None) -> Memory:
        keys, statistics = self.embed_support(support.x)
        if self.of_support is not None:
            both, _ = self.of_support(keys)
            keys = keys + both[..., : keys.shape[-1]] + both[..., keys.shape[-1] :]
        return Memory(keys, support.one_hot(keys.dtype), statistics)

    def predict(self, state: Memory, x: Tensor) -> Tensor:
        queries = self.embed_queries(x, state.statistics)
        if self.of_support is not None:
            queries = self._attend(queries, state.keys)
        similarity = F.normalize(queries, dim=-1) @ F.normalize(state.keys, dim=-1).mT
        attention = (self.sharpness * similarity).softmax(-1)
        return (attention @ state.labels).clamp(min=1e-12).log()

    def _attend(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Queries (T, n, d) in the context of the support set's embeddings (T, m, d)."""
        still = queries.flatten(0, 1)
        out, cell, read = still, torch.zeros_like(still), keys.mean(1, keepdim=True).expand_as(queries).flatten(0, 1)
        for _ in range(self.read_steps):
            hidden, cell = self.of_query(torch.cat([still, read], 1), (out, cell))
            out = hidden + still
            attention = (out.view_as(queries) @ keys.mT).softmax(-1)
            read = (attention @ keys).flatten(0, 1)
        return out.view_as(queries)

"""A simple neural attentive meta-learner (Mishra, Rohaninejad, Chen and Abbeel, ICLR 2018)."""

from collections.abc import Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from metarun.algo.metalearner import Reader
from metarun.config import require
from metarun.episodes import TaskSpec
from metarun.model.network import NetworkFactory

Layers = list[Tensor]
"""What each layer was given at the support set's places, (T, n, channels) each."""


class SNAIL(Reader):
    """Causal attention and dilated causal convolutions in turn, over the support set and then one query (section 3, figure 2).

    What a layer makes of the support set does not depend on what comes later, so it is computed once; a query is then one more
    place at the end, computed layer by layer for all queries at once, and none sees another.

    Args:
        attention: sizes (keys, values) of each attention block; between two of them stands a block of temporal convolutions.
        filters: of a temporal convolution.
        levels: convolutions of a block, each with twice the dilation of the one before: they reach (2 ** levels - 1) · ``dilation``
            places back, which should cover the support set.
        dilation: of a block's first convolution: with 1 they see every place within reach, with 2, as in
            github.com/eambutu/snail-pytorch, every second one.
        common: see `MetaLearner`.
    """

    ordered = True

    def __init__(
        self,
        spec: TaskSpec,
        model: NetworkFactory,
        *,
        attention: tuple[tuple[int, int], ...] = ((64, 32), (256, 128), (512, 256)),
        filters: int = 128,
        levels: int = 3,
        dilation: int = 1,
        **common: Any,
    ) -> None:
        super().__init__(spec, model, **common)
        sizes = [size for pair in attention for size in pair]
        require(bool(sizes) and all(size > 0 for size in sizes), "attention", list(attention), "pairs of numbers above 0")
        require(filters > 0, "filters", filters, "1 or more")
        require(0 < levels <= 16, "levels", levels, "1 to 16")
        require(dilation > 0, "dilation", dilation, "1 or more")
        channels = self.features + self.spec.outputs
        layers: list[CausalLayer] = []
        for i, (keys, values) in enumerate(attention):
            layers.append(CausalAttention(channels, keys, values))
            channels += values
            for level in range(levels if i + 1 < len(attention) else 0):
                layers.append(CausalConvolution(channels, filters, dilation * 2**level))
                channels += filters
        self.layers, self.head = nn.ModuleList(layers), nn.Linear(channels, self.spec.outputs)

    def head_weights(self) -> Iterable[Tensor]:
        return self.head.parameters()

    def read(self, features: Tensor, labels: Tensor) -> Layers:
        x, seen = torch.cat([features, labels], -1), []
        for layer in self.layers:
            seen.append(x)
            x = torch.cat([x, layer(x)], -1)
        return seen

    def answer(self, content: Layers, features: Tensor) -> Tensor:
        x = torch.cat([features, features.new_zeros(*features.shape[:2], self.spec.outputs)], -1)
        for layer, before in zip(self.layers, content, strict=True):
            x = torch.cat([x, layer(x, before)], -1)
        out: Tensor = self.head(x)
        return out


class CausalLayer(nn.Module):
    """A layer whose output at a place depends on that place and those before it; its input is kept beside its output."""

    def forward(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        """Places ``x`` (T, n, channels) in a row; or, given what came ``before`` (T, k, channels), each the next one after it."""
        raise NotImplementedError


class CausalConvolution(CausalLayer):
    """A gated convolution over a place and the one ``dilation`` before it, zeros where there is none (`DenseBlock`, figure 1)."""

    def __init__(self, channels: int, filters: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.now, self.past = nn.Linear(channels, 2 * filters), nn.Linear(channels, 2 * filters, bias=False)

    def forward(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        reach = self.dilation
        if before is None:
            past = torch.cat([torch.zeros_like(x[:, :reach]), x[:, :-reach]], 1)
        elif before.shape[1] >= reach:
            past = before[:, -reach].unsqueeze(1)
        else:
            past = torch.zeros_like(x[:, :1])
        both: Tensor = self.now(x) + self.past(past)
        candidate, gate = both.chunk(2, -1)
        return candidate.tanh() * gate.sigmoid()


class CausalAttention(CausalLayer):
    """Attention of a place over itself and those before it (`AttentionBlock`, figure 1)."""

    def __init__(self, channels: int, keys: int, values: int) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(channels, keys), nn.Linear(channels, keys), nn.Linear(channels, values)

    def forward(self, x: Tensor, before: Tensor | None = None) -> Tensor:
        query, key, value = self._project(x)
        if before is None:
            n = x.shape[1]
            later = torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)
            return (query @ key.mT).masked_fill(later, -torch.inf).softmax(-1) @ value
        _, keys, values = self._project(before)
        itself = (query * key).sum(-1, keepdim=True)
        weights = torch.cat([query @ keys.mT, itself], -1).softmax(-1)
        return weights[..., :-1] @ values + weights[..., -1:] * value

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.query(x) / sqrt(self.key.out_features), self.key(x), self.value(x)

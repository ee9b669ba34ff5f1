"""Progressive networks (Rusu et al. 2016): a new column for each stage, fed by the frozen columns of past stages."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy

import torch
from torch import Tensor, nn

from metarun.algo.algorithm import Algorithm
from metarun.cl.method import ContinualMethod, Needs
from metarun.config import ConfigError
from metarun.data.source import Stage
from metarun.model.layers import linear
from metarun.model.mlp import MLP
from metarun.model.network import Network, Weights
from metarun.model.norm import Norm


class Progressive(ContinualMethod):
    """Turns the learner's network into columns; each stage after the first adds one and leaves the others unchanged.

    A test must know its stage, whose column it uses; a future stage uses the latest column.

    Raises:
        ConfigError: the network is not an MLP, or the learner has parameters or buffers outside its network.
    """

    needs: Needs = "stages"

    def conflict(self, other: ContinualMethod) -> str | None:
        if type(other) is ContinualMethod:
            return None
        return "columns are frozen when their stage ends, so nothing is forgotten; remove one of the two"

    def on_start(self, algorithm: Algorithm, stages: list[Stage]) -> None:
        super().on_start(algorithm, stages)
        if not isinstance(algorithm.network, MLP):
            raise ConfigError("cl=progressive: needs model=mlp")
        outside = [name for name in algorithm.state_dict() if not name.startswith("network.")]
        if outside:
            raise ConfigError(
                f"cl=progressive: expected all weights in the network, but {type(algorithm).__name__} also has {outside[0]}"
            )
        self.columns = Columns(algorithm.network)
        algorithm.network = self.columns

    def grow(self, algorithm: Algorithm, stage: int) -> None:
        if stage:
            self.columns.add()

    @contextmanager
    def testing(self, algorithm: Algorithm, stage: int) -> Iterator[None]:
        latest = self.columns.active
        self.columns.active = min(stage, latest)
        try:
            yield
        finally:
            self.columns.active = latest


class Columns(Network):
    """Columns with lateral links, equation 1 of the paper: a layer is fed by the layer below in its own and every earlier column.

    A new column starts from the initial weights of the first, with lateral links of 0, so that earlier columns have no effect yet.

    Args:
        first: the first column, with its initial weights.
    """

    def __init__(self, first: MLP) -> None:
        super().__init__()
        self.film, self.statistics, self.head_names = {}, first.statistics, first.head_names
        self.columns, self.lateral = nn.ModuleList([first]), nn.ModuleList([nn.ParameterList()])
        self.initial = [deepcopy(first).requires_grad_(False)]  # in a list, so that it is not registered as a submodule
        self.active = 0
        """Index of the column that gives the output; earlier columns feed it."""

    def add(self) -> None:
        """Freeze all columns and add a new one, which becomes active."""
        self.requires_grad_(False)
        new, before = deepcopy(self.initial[0]).requires_grad_(), len(self.columns)
        upper = [w for w in new.parameters() if w.dim() == 2][1:]  # the first layer has no lateral links: all columns see the input
        links = [nn.Parameter(w.new_zeros(w.shape[0], before * w.shape[1])) for w in upper]
        self.columns.append(new)
        self.lateral.append(nn.ParameterList(links))
        self.active = before

    def weights(self) -> Weights:
        return self._column(self.active)

    def forward(self, weights: Weights, x: Tensor, norm: Norm | None = None) -> Tensor:
        below: list[list[Tensor]] = []  # outputs of the hidden layers, by column
        for number in range(self.active + 1):
            own = weights if number == self.active else self._column(number)
            fed = {}
            if below:
                # The last hidden layer of an embedding is its output and feeds no layer.
                joined = [torch.cat(layer, -1) for layer in zip(*below, strict=True)]
                links = [own[name] for name in own if name.startswith("lateral.")]
                fed = {f"film.{i}.shift": _link(h, link) for i, (h, link) in enumerate(zip(joined, links, strict=False), 1)}
            hidden: list[Tensor] = []
            out: Tensor = self.columns[number](own | fed, x, norm, hidden)
            below.append(hidden)
        return out

    def _column(self, number: int) -> Weights:
        column: Weights = dict(self.columns[number].named_parameters())
        return column | {f"lateral.{name}": w for name, w in self.lateral[number].named_parameters()}


def _link(hidden: Tensor, weight: Tensor) -> Tensor:
    """Apply lateral weights (o, d), or (T, o, d) per task, to (T, n, d) → (T, n, o)."""
    bias = weight.new_zeros(weight.shape[:-1])
    return linear(hidden, weight, bias)

"""Progressive networks (Rusu et al. 2016): a new column for each stage, fed by those of the past, which are frozen."""

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
    """The learner's network becomes one of columns, and each stage after the first adds one; nothing old is ever changed.

    Which stage a test is of must be told: it takes that stage's column. A stage that is yet to come takes the latest one.

    Raises:
        ConfigError: the network is not an MLP, or the learner keeps something beside it that a new column would change.
    """

    needs: Needs = "stages"

    def conflict(self, other: ContinualMethod) -> str | None:
        if type(other) is ContinualMethod:
            return None
        return "a column is frozen when its stage ends, so nothing is forgotten and there is nothing to keep; leave out one"

    def on_start(self, algorithm: Algorithm, stages: list[Stage]) -> None:
        super().on_start(algorithm, stages)
        if not isinstance(algorithm.network, MLP):
            raise ConfigError("cl=progressive: columns are made of model=mlp alone")
        beside = [name for name in algorithm.state_dict() if not name.startswith("network.")]
        if beside:
            raise ConfigError(
                f"cl=progressive: {type(algorithm).__name__} has {beside[0]} beside its network, which no column holds"
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
    """Equation 1 of the paper: each layer sees the layer below in its own column and, by lateral links, in every earlier one.

    A new column starts from the first one's initial weights, its lateral links at 0, so it starts as if it were alone.

    Args:
        first: the first column, with its initial weights.
    """

    def __init__(self, first: MLP) -> None:
        super().__init__()
        self.film, self.statistics, self.head_names = {}, first.statistics, first.head_names
        self.columns, self.lateral = nn.ModuleList([first]), nn.ModuleList([nn.ParameterList()])
        self.initial = [deepcopy(first).requires_grad_(False)]  # in a list: no module of this one's
        self.active = 0
        """The column whose output it is; the earlier ones feed it."""

    def add(self) -> None:
        """Freeze all there is and add a column, the active one from now on."""
        self.requires_grad_(False)
        new, before = deepcopy(self.initial[0]).requires_grad_(), len(self.columns)
        above = [w for w in new.parameters() if w.dim() == 2][1:]  # the lowest layer's inputs are the same for all columns
        links = [nn.Parameter(w.new_zeros(w.shape[0], before * w.shape[1])) for w in above]
        self.columns.append(new)
        self.lateral.append(nn.ParameterList(links))
        self.active = before

    def weights(self) -> Weights:
        return self._column(self.active)

    def forward(self, weights: Weights, x: Tensor, norm: Norm | None = None) -> Tensor:
        below: list[list[Tensor]] = []  # of each column so far, the output of each hidden layer
        for number in range(self.active + 1):
            own = weights if number == self.active else self._column(number)
            fed = {}
            if below:
                # Of an embedding the last hidden layer is the output: no layer above it is fed.
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
    """(T, n, d) by (o, d), or by each task's (T, o, d) → (T, n, o)."""
    bias = weight.new_zeros(weight.shape[:-1])
    return linear(hidden, weight, bias)

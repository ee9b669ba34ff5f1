"""Learners that are networks: one reads a task's support set, and answers queries without a gradient step."""

from abc import abstractmethod
from itertools import pairwise
from math import prod
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from metarun.algo.algorithm import Algorithm, BatchNormMode, one_head
from metarun.build import build
from metarun.config import ConfigError, nearest
from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.model.network import NetworkFactory, embedding_shape
from metarun.model.norm import Norm, Statistics


class MetaLearner(Algorithm):
    """A network that reads support sets. Its weights are shared by all tasks: what it learns of a task is what it has read.

    Inputs come through the configured `model` without its head, so that vectors (T, n, features) are read of images and of numbers
    alike.

    Args:
        spec, model: the tasks, and the configured `model`.
        batch_norm: see `Algorithm`.
        common: see `Algorithm`.
    """

    def __init__(self, spec: TaskSpec, model: NetworkFactory, *, batch_norm: BatchNormMode = "running", **common: Any) -> None:
        super().__init__(spec, batch_norm=batch_norm, **common)
        one_head(spec)  # refuses two sizes
        self.network = model(None)
        self.features = prod(embedding_shape(self.network, spec.input_shape))

    def embed(self, x: Tensor, norm: Norm) -> Tensor:
        """(T, n, *input_shape) → (T, n, features)."""
        out = self.network(self.network.weights(), x, norm).flatten(2)
        self.observe(norm)
        return out

    def labels(self, of: Examples) -> Tensor:
        """Labels one-hot, or targets as they are, (T, n, outputs)."""
        return of.targets(of.x.dtype)


class Read(NamedTuple):
    """What a reader made of T support sets, with the statistics that queries are normalised with (None: their own)."""

    content: Any
    statistics: Statistics | None


class Reader(MetaLearner):
    """A meta-learner that answers queries from what it has read, each query by itself.

    With running statistics support and queries are one batch in training.

    Attributes:
        ordered: whether the order in which it reads a support set matters; see `arrange`.
    """

    ordered: ClassVar[bool] = False

    @abstractmethod
    def read(self, features: Tensor, labels: Tensor) -> Any:
        """Support sets, ``features`` (T, n, features) with ``labels`` (T, n, outputs) → whatever `answer` needs of them."""

    @abstractmethod
    def answer(self, content: Any, features: Tensor) -> Tensor:
        """Queries (T, m, features) → logits or means (T, m, outputs)."""

    def adapt(self, support: Examples, steps: int | None = None) -> Read:
        support = self.arrange(support)
        norm = Norm(record="graph") if self.batch_norm == "support" else self.norm(query=False)
        content = self.read(self.embed(support.x, norm), self.labels(support))
        return Read(content, norm.seen if self.batch_norm == "support" else None)

    def predict(self, state: Read, x: Tensor) -> Tensor:
        norm = self.norm(query=True) if state.statistics is None else Norm(state.statistics)
        return self.answer(state.content, self.embed(x, norm))

    def losses(self, episodes: Episodes) -> Tensor:
        arranged = Episodes(self.arrange(episodes.support), episodes.query)
        support, query = self.embed_both(arranged)
        content = self.read(support, self.labels(arranged.support))
        return self.spec.kind.losses(self.answer(content, query), episodes.query.y)

    def embed_both(self, episodes: Episodes) -> tuple[Tensor, Tensor]:
        """Features of support and queries, normalised as the mode says."""
        support, query = episodes.support.x, episodes.query.x
        if self.batch_norm == "running" and self.training:
            both = self.embed(torch.cat([support, query], 1), self.norm(query=True))
            return both[:, : support.shape[1]], both[:, support.shape[1] :]
        norm = Norm(record="graph") if self.batch_norm == "support" else self.norm(query=False)
        embedded = self.embed(support, norm)
        return embedded, self.embed(query, Norm(norm.seen) if self.batch_norm == "support" else self.norm(query=True))

    def arrange(self, support: Examples) -> Examples:
        """The support set in the order in which it is read: as it comes, where order does not matter.

        Otherwise at random, since sets come class by class: in training drawn anew; in a test an order that each task's inputs
        decide, so that neither other tasks nor the order given change a prediction.
        """
        if not self.ordered:
            return support
        if self.training:
            order = torch.rand(support.x.shape[:2], device=support.x.device).argsort(1)
        else:
            inputs = support.x.flatten(2).cpu().double()  # in double precision: no batching may round it to another order
            waves = torch.arange(1, inputs.shape[2] + 1, dtype=torch.float64).sin()
            order = (1000 * inputs @ waves).frac().abs().argsort(dim=1, stable=True).to(support.x.device)
        return Examples(in_order(support.x, order), in_order(support.y, order), support.ways)


def in_order(of: Tensor, order: Tensor) -> Tensor:
    """``of`` (T, n, …) in the order (T, n)."""
    return of.gather(1, order.view(*order.shape, *(1,) * (of.dim() - 2)).expand_as(of))


def meta_learner(
    spec: TaskSpec,
    model: NetworkFactory,
    network: str,
    networks: dict[str, Any],
    batch_norm: BatchNormMode = "running",
    task_chunk: int | None = None,
) -> MetaLearner:
    """The `MetaLearner` that ``network`` names.

    Args:
        spec: of the tasks.
        model: what inputs go through first.
        network: a key of ``networks``.
        networks: each a `_target_`, a subclass of `MetaLearner`, with its keys.
        batch_norm: see `MetaLearner`.
        task_chunk: see `MetaLearner`.

    Raises:
        ConfigError: there is no such network, or its keys are wrong.
    """
    if network not in networks:
        raise ConfigError(f"algo.network={network}: no such network{nearest(network, networks)}")
    key = f"algo.networks.{network}"
    own = {"batch_norm": batch_norm, "task_chunk": task_chunk}
    made: MetaLearner = build(networks[network], spec, model, key=key, kind=MetaLearner, **own)
    return made


def perceptron(*widths: int) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class SetEncoder(nn.Module):
    """A support set as one vector, whatever the order of its examples (Zaheer et al. 2017; Garnelo et al. 2018, section 2).

    Each example goes through a perceptron, and the mean is taken: over all examples of its input and target together, or with
    ``ways`` over those of each class, and the classes' means are laid side by side (Garnelo et al. 2018, section 4.3).

    Args:
        features: of an input.
        outputs: target dimensions, or classes.
        width: of the perceptron's three layers.
        by_class: take the mean class by class.
    """

    def __init__(self, features: int, outputs: int, width: int, *, by_class: bool) -> None:
        super().__init__()
        self.by_class = by_class
        self.each = perceptron(features + (0 if by_class else outputs), width, width, width)
        self.outputs = width * (outputs if by_class else 1)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """``features`` (T, n, features), ``labels`` (T, n, outputs), one-hot with classes → (T, self.outputs)."""
        if not self.by_class:
            mean: Tensor = self.each(torch.cat([features, labels], -1)).mean(1)
            return mean
        means: Tensor = labels.mT @ self.each(features) / labels.sum(1).unsqueeze(-1)
        return means.flatten(1)

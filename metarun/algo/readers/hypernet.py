"""A hypernetwork: the support set becomes weights of the task's model (Bertinetto et al. 2016; Ha, Dai and Le, ICLR 2017)."""

from collections.abc import Iterable
from math import prod
from typing import Any

from torch import Tensor, nn

from metarun.algo.metalearner import MetaLearner, Read, SetEncoder
from metarun.config import require
from metarun.episodes import Examples, TaskSpec
from metarun.model.network import NetworkFactory, matching
from metarun.model.norm import Norm


class HyperNet(MetaLearner):
    """A linear layer turns the encoded support set into what is added to the weights of the task's model.

    The task's model is the configured `model` with its head. Support examples are encoded through another one of the same kind
    without a head.

    Args:
        width: of the set encoder's three layers.
        generated: patterns (`head.*`) of the weights that the support set decides; the others are shared by all tasks.
        common: see `MetaLearner`.
    """

    def __init__(
        self,
        spec: TaskSpec,
        model: NetworkFactory,
        *,
        width: int = 128,
        generated: tuple[str, ...] = ("*",),
        **common: Any,
    ) -> None:
        super().__init__(spec, model, **common)
        require(width > 0, "width", width, "1 or more")
        self.of_task = model(self.spec.outputs)
        weights = self.of_task.weights()
        chosen = matching(weights, generated)
        self.shapes = {name: w.shape for name, w in weights.items() if name in chosen}
        require(bool(self.shapes), "generated", list(generated), f"patterns of weights among {', '.join(weights)}")
        self.encoder = SetEncoder(self.features, self.spec.outputs, width, by_class=spec.kind.classes)
        self.generator = nn.Linear(self.encoder.outputs, sum(prod(shape) for shape in self.shapes.values()))

    def head_weights(self) -> Iterable[Tensor]:
        weights = self.of_task.weights()
        return [weights[name] for name in self.of_task.parts["head"]]

    def adapt(self, support: Examples, steps: int | None = None) -> Read:
        """Each task's weights, those that are generated with a leading task axis."""
        code = self.encoder(self.embed(support.x, self.norm(query=False, record=True)), self.labels(support))
        parts = self.generator(code).split([prod(shape) for shape in self.shapes.values()], 1)
        weights = self.of_task.weights()
        for (name, shape), part in zip(self.shapes.items(), parts, strict=True):
            weights[name] = weights[name] + part.view(-1, *shape)
        if self.batch_norm != "support":
            return Read(weights, None)
        norm = Norm(record="graph")
        self.of_task(weights, support.x, norm)
        return Read(weights, norm.seen)

    def predict(self, state: Read, x: Tensor) -> Tensor:
        statistics = self.of_task.statistics
        norm = self.norm(query=True, statistics=statistics) if state.statistics is None else Norm(state.statistics)
        out = self.of_task(state.content, x, norm)
        self.observe(norm, statistics)
        return out

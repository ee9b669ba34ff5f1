"""Learners that embed a task and adapt from an initialisation of its own (Vuorio et al., NeurIPS 2019; Yao et al., ICML 2019)."""

from collections.abc import Callable, Hashable
from functools import partial
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from metarun.algo.algorithm import one_head
from metarun.algo.gradient_learner import Adapted, UnrolledLearner
from metarun.algo.meta_features import count, meta_features
from metarun.algo.metalearner import SetEncoder
from metarun.algo.rules import Descent, Rule
from metarun.config import ConfigError, require
from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.model.network import NetworkFactory, Weights, embedding_shape
from metarun.model.norm import Norm
from metarun.report import findings
from metarun.report.findings import Finding, Probes


class TaskEmbed(UnrolledLearner):
    """A support set becomes a task vector, the vector conditions the shared initialisation, and inner steps follow.

    Conditions are constants of the inner loop. Of the kind "film" they scale and shift every hidden layer (MMAML, Vuorio et al.
    2019); of the kind "gates" they multiply the initial weights of each unit by a factor in (0, 2) (HSML, Yao et al. 2019, which
    has a factor for each weight). Both begin as no condition at all.

    Args:
        spec, network: the tasks, and the configured `model`.
        inner_lr: rate of the inner steps.
        encoder: of task vectors. "set": a set encoder, trained with the rest. "similarity": a set encoder of unit vectors that the
            metric loss alone trains: of the tasks of an update, a support set should be nearest to the queries of its own task
            (normalised temperature-scaled cross entropy, Sohn 2016), and nothing else trains it. "features": hand-made
            meta-features, which are not learned.
        condition: "film" or "gates".
        size: of a task vector; hand-made ones have a size of their own.
        width: of the hidden layers of encoder and conditions.
        temperature: of the metric loss.
        outer: "maml", or "reptile": the initialisation moves towards where the inner steps end, and what conditions it learns from
            the query loss to the first order.
        adapt: "steps", or "nearest": take no step in a test, but predict with the model that was adapted to the most similar
            training task, by Euclidean distance of task vectors. On regression alone: labels mean something else in every task.
        remembered: training tasks to choose from, the latest ones.
        common: see `UnrolledLearner`. With outer=reptile nothing is recomputed: its first-order steps keep no activations.
            The metric loss compares all tasks of an update whatever ``task_chunk`` is, and passes them through the encoder once
            more where they are several chunks.
    """

    vectors: Tensor
    """Of the training tasks remembered, (remembered, size)."""
    models: Tensor
    """Their adapted weights and conditions, (remembered, numbers)."""
    seen: Tensor
    """How many training tasks there have been."""

    def __init__(
        self,
        spec: TaskSpec,
        network: NetworkFactory,
        inner_lr: float,
        encoder: Literal["set", "similarity", "features"] = "set",
        condition: Literal["film", "gates"] = "film",
        size: int = 16,
        width: int = 64,
        temperature: float = 0.3,
        outer: Literal["maml", "reptile"] = "maml",
        adapt: Literal["steps", "nearest"] = "steps",
        remembered: int = 1000,
        **common: Any,
    ) -> None:
        super().__init__(spec, network(one_head(spec)), **common)
        if outer == "reptile":
            self.first_order, self.recompute = True, False
        require(inner_lr > 0, "inner_lr", inner_lr, "a number above 0")
        require(temperature > 0, "temperature", temperature, "a number above 0")
        for key, value in {"size": size, "width": width, "remembered": remembered}.items():
            require(value > 0, key, value, "1 or more")
        require(adapt == "steps" or not spec.kind.classes, "adapt", adapt, "steps: labels mean something else in every task")
        self.inner_lr, self.encoder, self.temperature, self.outer = inner_lr, encoder, temperature, outer
        self.nearest = adapt == "nearest"
        if encoder == "features":
            self.size = count(spec)
        else:
            self.size, self.embedding = size, network(None)
            features = prod(embedding_shape(self.embedding, spec.input_shape))
            self.set_encoder = SetEncoder(features, spec.outputs, width, by_class=False)
            self.to_vector = nn.Linear(width, size)

        own = self.adapting()
        if condition == "film":
            if not self.network.film:
                raise ConfigError("model: film needs hidden layers as mlp, conv4 and resnet12 have them; set algo.condition=gates")
            widths = {f"film.{layer}.{part}": n for layer, n in self.network.film.items() for part in ("scale", "shift")}
        else:
            widths = {f"gate.{name}": len(w) for name, w in own.items()}
        self.widths, self.frozen = widths, frozenset([*widths, "vector"])
        last = nn.Linear(width, sum(widths.values()))
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.conditions = nn.Sequential(nn.Linear(self.size, width), nn.ReLU(), last)
        if encoder == "similarity":
            self.why_not_sharded = "algo.encoder=similarity: compares the tasks of an update"
        if self.nearest:
            self.why_not_sharded = "algo.adapt=nearest: remembers all tasks of an update"
            self.steps = None
            self.register_buffer("vectors", torch.zeros(remembered, self.size))
            of_conditions = {
                name: own[name.removeprefix("gate.")].shape if condition == "gates" else (n,) for name, n in widths.items()
            }
            self.shapes = {**of_conditions, **{name: w.shape for name, w in own.items()}}
            self.register_buffer("models", torch.zeros(remembered, sum(prod(shape) for shape in self.shapes.values())))
            self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    # Task vectors and what follows from them --------------------------------------------------------------------------------

    def task_vectors(self, examples: Examples, *, record: bool = True) -> Tensor:
        """The vectors of T tasks from examples of each, (T, size); whatever the order of the examples.

        In training the pass moves the encoder's running statistics if ``record``.
        """
        if self.encoder == "features":
            return meta_features(examples)
        norm = self.norm(query=False, record=record, statistics=self.embedding.statistics)
        embedded = self.embedding(self.embedding.weights(), examples.x, norm).flatten(2)
        self.observe(norm, self.embedding.statistics)
        vectors: Tensor = self.to_vector(self.set_encoder(embedded, examples.targets(embedded.dtype)))
        return F.normalize(vectors, dim=1) if self.encoder == "similarity" else vectors

    def initial(self, support: Examples) -> Weights:
        """The shared initialisation, with each task's vector and the conditions it sets."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.encoder != "similarity"):
            vectors = self.task_vectors(support)
        made = self.conditions(vectors)
        given = dict(zip(self.widths, made.split(list(self.widths.values()), 1), strict=True))
        initial = self.network.weights()
        for name, value in given.items():
            if name.startswith("gate."):
                # What the gate adds to the initial weight: inner steps from their sum are those from the gated weight.
                weight = initial[name.removeprefix("gate.")]
                given[name] = value.tanh().view(*value.shape, *(1,) * (weight.dim() - 1)) * weight
            elif name.endswith(".scale"):
                given[name] = 1 + value
        return initial | given | {"vector": vectors}

    def forward_task(self, step: int, weights: Weights, x: Tensor, norm: Norm) -> Tensor:
        used = {
            name: w + weights[f"gate.{name}"] if f"gate.{name}" in weights else w
            for name, w in weights.items()
            if name != "vector" and not name.startswith("gate.")
        }
        return self.network(used, x, norm)

    def rule(self) -> Rule:
        return Descent(self.inner_lr)

    # The most similar training task ------------------------------------------------------------------------------------------

    def adapt(self, support: Examples, steps: int | None = None) -> Adapted:
        if not self.nearest or self.training:
            return super().adapt(support, steps)
        known = min(int(self.seen), len(self.vectors))
        if not known:  # an untrained learner
            return super().adapt(support, 0)
        vectors = self.task_vectors(support)
        most_similar = torch.cdist(vectors, self.vectors[:known], compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        parts = self.models[most_similar].split([prod(shape) for shape in self.shapes.values()], 1)
        adapted = {name: part.view(-1, *shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
        weights = self.network.weights() | adapted
        return self.with_statistics(Adapted(weights, None, self.inner_steps, support, {}))

    def trajectory(self, support: Examples, x: Tensor, steps: int | None = None) -> Tensor:
        return self.predict(self.adapt(support), x).unsqueeze(0) if self.nearest else super().trajectory(support, x, steps)

    @torch.no_grad()
    def _remember(self, end: Adapted) -> None:
        """Keep the vectors and the adapted models of these training tasks in the places of the oldest."""
        vectors = end.weights["vector"]
        places = (self.seen + torch.arange(len(vectors), device=vectors.device)) % len(self.vectors)
        self.vectors[places] = vectors
        self.models[places] = torch.cat([end.weights[name].flatten(1) for name in self.shapes], 1)
        self.seen += len(vectors)

    def probe(self, episodes: Episodes) -> dict[str, Tensor]:
        """The tasks' vectors, (T, size), and beside them the true parameters where the data tell them, (T, 1) each."""
        return {"task_vectors": self.task_vectors(episodes.support)} | {n: episodes.context[n] for n in self.spec.parameters}

    def findings(self, probes: Probes) -> list[Finding]:
        parameters = {name: probes[name].ravel() for name in self.spec.parameters if name in probes}
        return [findings.task_vectors(probes["task_vectors"], parameters)]

    # Learning ---------------------------------------------------------------------------------------------------------------

    def losses(self, episodes: Episodes) -> Tensor:
        losses = self._query_losses(episodes, self.end(episodes.support))
        return losses + self.metric_losses(episodes) if self.encoder == "similarity" else losses

    @property
    def phase(self) -> Hashable | None:
        """None where an update also remembers its tasks."""
        return None if self.nearest else super().phase

    def backward(self, episodes: Episodes, chunk: Callable[[Episodes, int], Tensor] | None = None) -> Tensor:
        """As for any learner, after the metric loss, which compares all tasks of the update and is not a sum over chunks.

        Raises:
            ConfigError: encoder=similarity is given one task.
        """
        if self.encoder != "similarity":
            return super().backward(episodes, chunk)
        if len(episodes) == 1:
            raise ConfigError("algo.encoder=similarity: compares the tasks of an update, found one; set trainer.tasks to 2 or more")
        compared = self.metric_losses(episodes)
        self.accumulate(compared, {}, episodes, len(episodes))
        return super().backward(episodes, chunk) + compared.detach()

    def gradients(self, episodes: Episodes) -> tuple[Tensor, Weights]:
        end = self.end(episodes.support)
        away = {name: w - end.weights[name] for name, w in self.adapting().items()} if self.outer == "reptile" else {}
        return self._query_losses(episodes, end), away

    def _query_losses(self, episodes: Episodes, end: Adapted) -> Tensor:
        """Query loss at the adapted weights, (T,)."""
        if self.nearest:
            self._remember(end)
        return self.spec.kind.losses(self.predict(self.with_statistics(end), episodes.query.x), episodes.query.y)

    def metric_losses(self, episodes: Episodes) -> Tensor:
        """How far each support set is from the queries of its own task beside those of the others, (T,).

        One chunk's activations are kept at a time: those of several are computed once more in the backward pass.
        """
        parts = list(episodes.split(self.chunk(episodes)))

        def vectors(examples: list[Examples]) -> Tensor:
            encode = partial(self.task_vectors, record=False)  # `initial` has recorded what a test normalises, support sets
            if len(examples) == 1:
                return encode(examples[0])
            return torch.cat([checkpoint(encode, some, use_reentrant=False) for some in examples])

        likeness = vectors([p.support for p in parts]) @ vectors([p.query for p in parts]).mT / self.temperature
        return F.cross_entropy(likeness, torch.arange(len(episodes), device=likeness.device), reduction="none")

"""Readers of examples in a row, with labels shifted by one step (Hochreiter, Younger and Conwell 2001; Santoro et al. 2016)."""

from abc import abstractmethod
from math import sqrt
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from metarun.algo.metalearner import Reader, in_order
from metarun.algo.metric_space import class_means, squared_distances
from metarun.config import require
from metarun.episodes import Episodes, Examples, TaskSpec, one_hot
from metarun.kinds import if_finite
from metarun.model.network import NetworkFactory
from metarun.model.norm import Norm
from metarun.report import findings
from metarun.report.findings import Finding, Probes

State = tuple[Tensor, ...]
"""What such a reader remembers, the task axis first."""

TrainOn = Literal["stream", "queries", "both"]
"""What a reader of streams learns to predict, see `StreamReader`."""


class StreamReader(Reader):
    """At each presentation an input comes with the label of the one before, and its own label is to be predicted.

    In a test the support set is the stream, and each query is read after it as if it were the next and only one. Training takes
    the same loss ("queries"), or support examples and queries as one stream in random order, every presentation predicted
    ("stream", Santoro et al. 2016, section 3), or the sum of the two ("both"). A whole stream teaches what to do with many
    examples, but the first that it teaches is to count labels, since each class comes as often as the others.

    Features are normalised, for the label that comes with one is a few numbers among many, and would be lost beside a norm that
    differs from input to input.

    Args:
        train_on: "stream", "queries" or "both".
        recall: at each presentation the input before comes again, beside its label: what is to be remembered of an example is then
            there at one time, and no step is spent on learning to hold an input until its label comes. The papers do not.
        matching: weight of a loss that trains the embedding beside the reader, from the first update on: that of the queries by
            their squared distance to the support set's class means (`ProtoNet`). Of classes alone; 0: none, as in the papers.
        common: see `MetaLearner`.
    """

    ordered = True

    def __init__(
        self,
        spec: TaskSpec,
        model: NetworkFactory,
        *,
        train_on: TrainOn = "stream",
        recall: bool = False,
        matching: float = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(spec, model, **common)
        require(matching >= 0, "matching", matching, "0 or more")
        self.train_on, self.recall, self.matching = train_on, recall, matching
        self.input_size = (2 if recall else 1) * self.features + self.spec.outputs

    def embed(self, x: Tensor, norm: Norm) -> Tensor:
        return F.layer_norm(super().embed(x, norm), (self.features,))

    @abstractmethod
    def start(self, like: Tensor) -> State:
        """What it remembers before the first presentation of the tasks of ``like`` (T, …)."""

    @abstractmethod
    def run(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """``inputs`` (T, n, input_size), one after another → predictions (T, n, outputs), and what it then remembers."""

    def stream(self, features: Tensor, labels: Tensor) -> Tensor:
        """Predictions (T, n, outputs) for ``features`` (T, n, features), whose ``labels`` (T, n, outputs) come a step later."""
        return self.run(self.inputs(features, labels), self.start(features))[0]

    def inputs(self, features: Tensor, labels: Tensor) -> Tensor:
        """What comes at each presentation: an input, the one before if it is recalled, and that one's label, (T, n, input_size)."""
        return torch.cat([features, *map(shift, [features, labels] if self.recall else [labels])], -1)

    def read(self, features: Tensor, labels: Tensor) -> tuple[State, Tensor]:
        _, state = self.run(self.inputs(features, labels), self.start(features))
        return state, torch.cat([features[:, -1], labels[:, -1]] if self.recall else [labels[:, -1]], -1)

    def answer(self, content: tuple[State, Tensor], features: Tensor) -> Tensor:
        state, last = content
        tasks, queries = features.shape[:2]
        each = tuple(part.repeat_interleave(queries, 0) for part in state)
        inputs = torch.cat([features, last.unsqueeze(1).expand(-1, queries, -1)], -1)
        out, _ = self.run(inputs.flatten(0, 1).unsqueeze(1), each)
        return out.view(tasks, queries, -1)

    def losses(self, episodes: Episodes) -> Tensor:
        support, query = self.embed_both(episodes)
        losses = support.new_zeros(len(episodes))
        if self.train_on != "queries":
            losses = losses + self._stream_losses(episodes, torch.cat([support, query], 1))
        if self.train_on != "stream":
            arranged = self.arrange(Examples(support, episodes.support.y, episodes.support.ways))
            content = self.read(arranged.x, self.labels(arranged))
            losses = losses + self.spec.kind.losses(self.answer(content, query), episodes.query.y)
        if self.matching and episodes.query.ways:
            means = class_means(support, episodes.support)
            near = -squared_distances(query, means) / sqrt(self.features)  # as attention scales its products
            losses = losses + self.matching * self.spec.kind.losses(near, episodes.query.y)
        return losses

    def _stream_losses(self, episodes: Episodes, features: Tensor) -> Tensor:
        """Mean loss over the presentations of support and queries, whose ``features`` (T, n, features) these are, (T,)."""
        labels = torch.cat([self.labels(episodes.support), self.labels(episodes.query)], 1)
        y = torch.cat([episodes.support.y, episodes.query.y], 1)
        order = torch.rand(y.shape[:2], device=y.device).argsort(1)
        return self.spec.kind.losses(self.stream(in_order(features, order), in_order(labels, order)), in_order(y, order))

    def probe(self, episodes: Episodes) -> dict[str, Tensor]:
        """Accuracy at the first, second, … presentation of a class, (T, shots + queries), of support and queries in one stream.

        Classification alone, where each class of a task has as many examples as the others.
        """
        support, query = episodes.support, episodes.query
        if not support.ways:
            return {}
        both = self.arrange(Examples(torch.cat([support.x, query.x], 1), torch.cat([support.y, query.y], 1), support.ways))
        labels = self.labels(both)
        if self.batch_norm == "support":
            of_support = Norm(record="graph")
            self.embed(support.x, of_support)
            norm = Norm(of_support.seen)
        else:
            norm = self.norm(query=True)
        logits = self.stream(self.embed(both.x, norm), labels)
        right = logits.argmax(-1) == both.y
        number = (labels.cumsum(1) * labels).sum(-1) - 1  # how often its class has been shown before
        at = one_hot(number.long(), both.y.shape[1] // support.ways, labels.dtype)
        accuracies = (right.to(labels.dtype).unsqueeze(1) @ at).squeeze(1) / support.ways
        return {"by_presentation": if_finite(accuracies.mT, logits).mT}

    def findings(self, probes: Probes) -> list[Finding]:
        if "by_presentation" not in probes:
            return []
        return [findings.by_presentation(probes["by_presentation"], self.spec.outputs)]


def shift(labels: Tensor) -> Tensor:
    """(T, n, outputs) a step later, nothing coming first."""
    return torch.cat([torch.zeros_like(labels[:, :1]), labels[:, :-1]], 1)

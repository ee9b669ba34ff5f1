"""Training on all tasks pooled: one network and one head, to tell all training classes apart or to fit one function."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from metarun.algo.algorithm import Algorithm
from metarun.config import ConfigError
from metarun.episodes import Episodes, TaskSpec
from metarun.model.network import Network, embedding_width


class PooledTraining(Algorithm):
    """A learner that is trained on the support and query examples of all tasks as one batch, through a head of its own.

    It adapts and predicts as its subclass defines. Subclasses call `add_pooled_head` when their network is there.
    """

    head: nn.Linear
    """From the network's embedding to all training classes, or to targets."""

    def add_pooled_head(self) -> None:
        """Make the head of training.

        Raises:
            ConfigError: the data do not number the training classes.
        """
        self.head = nn.Linear(embedding_width(self.network, self.spec.input_shape), pooled_outputs(self.spec))
        self.why_not_sharded = pooled_norms(self.network)

    def head_weights(self) -> Iterable[Tensor]:
        return () if self.spec.kind.classes else self.head.parameters()  # of training classes, not of a task's

    def outputs_and_targets(self, episodes: Episodes) -> tuple[Tensor, Tensor]:
        support, query = episodes.support, episodes.query
        x, y = torch.cat([support.x, query.x], 1), torch.cat([support.y, query.y], 1)
        if self.spec.kind.classes:
            y = episodes.context["classes"].gather(1, y)
        features = self.embed_pooled(x.flatten(0, 1).unsqueeze(0))
        return self.head(features).view(*x.shape[:2], -1), y

    def chunk(self, episodes: Episodes) -> int | None:
        return self.task_chunk  # all tasks of an update are one ordinary batch


def pooled_outputs(spec: TaskSpec) -> int:
    """The outputs of pooled training: all training classes, or the dimensions of a target.

    Raises:
        ConfigError: the data do not number the training classes.
    """
    if not spec.kind.classes:
        return spec.outputs
    if spec.train_classes is None:
        raise ConfigError(f"data={spec.name}: pooled training tells the training classes apart, and these data do not number them")
    return spec.train_classes


def pooled_norms(network: Network) -> str | None:
    """`Algorithm.why_not_sharded` of a learner that trains ``network`` on all tasks pooled."""
    return "model: batch norms take all tasks of an update as one batch" if network.statistics.channels else None

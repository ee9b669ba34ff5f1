"""Ordinary supervised learning: one network and one head for all tasks, which nothing adapts."""

from typing import ClassVar

from torch import Tensor

from metarun.algo.algorithm import Algorithm
from metarun.algo.pooled import pooled_norms
from metarun.config import ConfigError
from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.model.network import NetworkFactory


class Supervised(Algorithm):
    """One network that maps inputs to all classes (or to targets), for streams of examples.

    The head is there in full from the start. Which of its outputs an example may be, the data's scenario says. Batch norms use
    the batch's statistics in training and running ones in the test.

    Args:
        task_chunk: examples taken at once, which bounds memory; null: all.
    """

    adapts: ClassVar[bool] = False
    feedforward: ClassVar[bool] = True

    def __init__(self, spec: TaskSpec, network: NetworkFactory, task_chunk: int | None = None) -> None:
        super().__init__(spec, batch_norm="running", task_chunk=task_chunk)
        if spec.kind.classes and not spec.examples:
            raise ConfigError(
                f"data={spec.name}: supervised learning needs classes that are the same in every task; choose data=split_mnist"
                " or another stream (data.scenario=class), or algo=finetune"
            )
        self.network = network(spec.outputs)
        self.why_not_sharded = pooled_norms(self.network)

    def adapt(self, support: Examples, steps: int | None = None) -> None:
        return None

    def predict(self, state: None, x: Tensor) -> Tensor:
        norm = self.norm(query=True)
        # In training all tasks are one ordinary batch to a batch norm; in the test nothing depends on the others.
        batch = x.flatten(0, 1).unsqueeze(0) if self.training else x
        out = self.network(self.network.weights(), batch, norm).view(*x.shape[:2], -1)
        self.observe(norm)
        return out

    def chunk(self, episodes: Episodes) -> int | None:
        return self.task_chunk

    def network_pass(self, episodes: Episodes) -> None:
        self.predict(None, episodes.query.x)

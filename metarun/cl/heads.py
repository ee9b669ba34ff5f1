"""A separate head for each stage on a shared body. Tests must know their stage."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from metarun.algo.algorithm import Algorithm
from metarun.cl.method import ContinualMethod, Needs
from metarun.cl.penalty import QuadraticPenalty, to
from metarun.config import ConfigError
from metarun.data.source import Stage
from metarun.model.network import Weights
from metarun.rng import derive


class Heads(ContinualMethod):
    """Each stage trains its own head (`Algorithm.parts`) and is tested with it.

    The first stage uses the learner's initial head. Later stages start from a random permutation of the initial head's values,
    which preserves the distribution of the network's initialisation. Heads must differ at the start: stages that share labels
    would otherwise require the same directions of the body's features and overwrite each other.

    Combines with penalties, which then act on the body only, since a head is not trained after its stage.

    Raises:
        ConfigError: the learner has no head, a layer that gives the outputs of a task.
    """

    needs: Needs = "stages"

    def on_start(self, algorithm: Algorithm, stages: list[Stage]) -> None:
        super().on_start(algorithm, stages)
        head = algorithm.parts["head"]
        if not head:
            raise ConfigError(f"cl=heads: {type(algorithm).__name__} has no head, a layer that gives the outputs of a task")
        self.names = [name for name, _ in algorithm.named_parameters() if name in head]
        self.per_stage = frozenset(self.names)
        initial = self._head(algorithm)
        self.heads = [self._redrawn(initial, number) for number in range(len(stages))]

    def conflict(self, other: ContinualMethod) -> str | None:
        if isinstance(other, QuadraticPenalty) or type(other) is ContinualMethod:
            return None
        return (
            "it would train or distil past stages through the head of the present stage;"
            " use data.scenario=task, which gives each stage its own outputs, or a penalty"
        )

    def on_stage_start(self, algorithm: Algorithm, stage: int) -> None:
        self._put(algorithm, self.heads[stage])

    def on_stage_end(self, algorithm: Algorithm, stage: Stage) -> Mapping[str, float] | None:
        self.heads[self.stage] = self._head(algorithm)
        return None

    @contextmanager
    def testing(self, algorithm: Algorithm, stage: int) -> Iterator[None]:
        present = self._head(algorithm)
        self._put(algorithm, self.heads[stage])
        try:
            yield
        finally:
            self._put(algorithm, present)

    def _head(self, algorithm: Algorithm) -> Weights:
        return {name: algorithm.get_parameter(name).detach().clone() for name in self.names}

    def _redrawn(self, head: Weights, stage: int) -> Weights:
        """The initial head of stage ``stage``, a pure function of the seed, the stage and the learner's initial ``head``."""
        if not stage:
            return head
        permuted = {}
        for name, value in head.items():
            generator = torch.Generator().manual_seed(derive(self.seed, "head", stage, name))
            order = torch.randperm(value.numel(), generator=generator).to(value.device)
            permuted[name] = value.flatten()[order].view_as(value)
        return permuted

    @torch.no_grad()
    def _put(self, algorithm: Algorithm, head: Weights) -> None:
        for name, value in head.items():
            algorithm.get_parameter(name).copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"heads": self.heads}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.heads = [to(head, self.device) for head in state["heads"]]

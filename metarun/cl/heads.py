"""A head for each stage, on a body that all stages share. Which stage a test is of must be told."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from metarun.algo.algorithm import Algorithm
from metarun.cl.method import ContinualMethod, Needs
from metarun.cl.penalty import to
from metarun.config import ConfigError
from metarun.data.source import Stage
from metarun.model.network import Weights


class Heads(ContinualMethod):
    """Each stage trains a head of its own, from the initial one, and is tested with it: the learner's last linear layer.

    Raises:
        ConfigError: the learner has no linear layer that gives its outputs.
    """

    needs: Needs = "stages"

    def on_start(self, algorithm: Algorithm, stages: list[Stage]) -> None:
        super().on_start(algorithm, stages)
        linear = {name: module for name, module in algorithm.named_modules() if isinstance(module, nn.Linear)}
        heads = [name for name, layer in linear.items() if layer.out_features == algorithm.spec.outputs]
        if not heads:
            raise ConfigError(f"cl=heads: {type(algorithm).__name__} has no head, that is a linear layer that ends in its outputs")
        self.names = [f"{heads[-1]}.{name}" for name, _ in linear[heads[-1]].named_parameters()]
        self.heads = [self._head(algorithm) for _ in stages]

    def on_stage_start(self, algorithm: Algorithm, stage: int) -> None:
        self._put(algorithm, self.heads[stage])

    def on_stage_end(self, algorithm: Algorithm, stage: Stage) -> Mapping[str, float] | None:
        self.heads[self.stage] = self._head(algorithm)
        return None

    @contextmanager
    def testing(self, algorithm: Algorithm, stage: int) -> Iterator[None]:
        own = self._head(algorithm)
        self._put(algorithm, self.heads[stage])
        try:
            yield
        finally:
            self._put(algorithm, own)

    def _head(self, algorithm: Algorithm) -> Weights:
        return {name: algorithm.get_parameter(name).detach().clone() for name in self.names}

    @torch.no_grad()
    def _put(self, algorithm: Algorithm, head: Weights) -> None:
        for name, value in head.items():
            algorithm.get_parameter(name).copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"heads": self.heads}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.heads = [to(head, self.device) for head in state["heads"]]

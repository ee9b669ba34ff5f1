"""Combinations of continual-learning methods: `cl=[ewc,replay]`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import permutations
from typing import Any, get_args

import torch
from torch import Tensor

from metarun.algo.algorithm import Algorithm
from metarun.cl.method import ContinualMethod, Needs
from metarun.config import ConfigError
from metarun.data.source import Stage, TaskSource
from metarun.episodes import Episodes
from metarun.model.network import Weights


class CompositeMethod(ContinualMethod):
    """Methods applied together, in the order given, except that methods which project gradients come last.

    Raises:
        ConfigError: two of the methods cannot be combined.
    """

    def __init__(self, methods: Sequence[ContinualMethod]) -> None:
        self.methods = sorted(methods, key=lambda method: type(method).project is not ContinualMethod.project)
        self.sources = [method for method in self.methods if method.gives_tasks]
        self.sees_tasks = any(method.sees_tasks for method in methods)
        self.observes = any(method.observes for method in methods)
        self.gives_tasks = bool(self.sources)
        self.needs = max((method.needs for method in methods), key=get_args(Needs).index)
        for one, other in permutations(methods, 2):
            why = one.conflict(other)
            if why is not None:
                raise ConfigError(f"cl: {type(one).__name__} and {type(other).__name__} cannot be combined: {why}")
        if len(self.sources) > 1:
            raise ConfigError("cl: two of the methods replace the source of tasks; remove one of them")

    def on_start(self, algorithm: Algorithm, stages: list[Stage]) -> None:
        super().on_start(algorithm, stages)
        for method in self.methods:
            method.announced, method.seed = self.announced, self.seed
            method.on_start(algorithm, stages)
        self.per_stage = frozenset().union(*(method.per_stage for method in self.methods))
        for method in self.methods:
            method.per_stage = self.per_stage

    def grow(self, algorithm: Algorithm, stage: int) -> None:
        for method in self.methods:
            method.grow(algorithm, stage)

    def enter(self, stage: int) -> None:
        super().enter(stage)
        for method in self.methods:
            method.enter(stage)

    def source(self, stage: int) -> TaskSource:
        return self.sources[0].source(stage) if self.sources else super().source(stage)

    def on_stage_start(self, algorithm: Algorithm, stage: int) -> None:
        for method in self.methods:
            method.on_stage_start(algorithm, stage)

    def mix(self, episodes: Episodes) -> Episodes:
        for method in self.methods:
            episodes = method.mix(episodes)
        return episodes

    def loss(self, algorithm: Algorithm, episodes: Episodes) -> Tensor | None:
        return _sum([method.loss(algorithm, episodes) for method in self.methods])

    def penalty(self, algorithm: Algorithm) -> Tensor | None:
        return _sum([method.penalty(algorithm) for method in self.methods])

    def gradient(self, algorithm: Algorithm) -> None:
        for method in self.methods:
            method.gradient(algorithm)

    def curvature(self, algorithm: Algorithm) -> Weights:
        total: Weights = {}
        for method in self.methods:
            for name, c in method.curvature(algorithm).items():
                total[name] = total[name] + c if name in total else c
        return total

    def project(self, algorithm: Algorithm) -> None:
        for method in self.methods:
            method.project(algorithm)

    def after_update(self, algorithm: Algorithm, episodes: Episodes) -> None:
        for method in self.methods:
            method.after_update(algorithm, episodes)

    def on_stage_end(self, algorithm: Algorithm, stage: Stage) -> Mapping[str, float]:
        values: dict[str, float] = {}
        for method in self.methods:
            values |= method.on_stage_end(algorithm, stage) or {}
        return values

    @contextmanager
    def testing(self, algorithm: Algorithm, stage: int) -> Iterator[None]:
        with ExitStack() as stack:
            for method in self.methods:
                stack.enter_context(method.testing(algorithm, stage))
            yield

    def state_dict(self) -> dict[str, Any]:
        return {str(i): method.state_dict() for i, method in enumerate(self.methods)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for i, method in enumerate(self.methods):
            method.load_state_dict(state[str(i)])


def _sum(terms: Sequence[Tensor | None]) -> Tensor | None:
    """The sum of the terms that are not None; None if all are."""
    present = [term for term in terms if term is not None]
    return torch.stack(present).sum() if present else None

"""Baselines without meta-learning: ordinary training on all tasks together, or none, then fine-tuning on the support set."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from torch import Tensor

from metarun.algo.algorithm import Algorithm, BatchNormMode, one_head
from metarun.algo.by_length import by_length, findings_by_length
from metarun.algo.gradient_learner import Adapted, GradientLearner
from metarun.algo.pooled import PooledTraining
from metarun.algo.rules import Adam, Descent, Rule
from metarun.config import require
from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.model.layers import linear
from metarun.model.network import Network, NetworkFactory, Weights
from metarun.model.norm import Norm
from metarun.report.findings import Finding, Probes

InnerOptimizer = Literal["sgd", "adam"]


class FineTuner(GradientLearner):
    """What the fine-tuning baselines share: inner steps on the support set that training knows nothing of.

    Args:
        spec: of the tasks.
        network: whose weights are tuned.
        inner_lr: rate of the fine-tuning steps.
        test_steps: fine-tuning steps.
        inner_optimizer: of the fine-tuning steps.
        inner_batch: go through the support set once, in its order, with this many examples a step, as `OML` does; null:
            ``test_steps`` on all of it.
        batch_norm, task_chunk: see `Algorithm`.
    """

    def __init__(
        self,
        spec: TaskSpec,
        network: Network,
        *,
        inner_lr: float,
        test_steps: int = 10,
        inner_optimizer: InnerOptimizer = "sgd",
        inner_batch: int | None = None,
        batch_norm: BatchNormMode = "running",
        task_chunk: int | None = None,
    ) -> None:
        steps = {"inner_steps": max(test_steps, 1), "test_steps": test_steps}
        super().__init__(spec, network, **steps, batch_norm=batch_norm, task_chunk=task_chunk)
        require(inner_lr > 0, "inner_lr", inner_lr, "a number above 0")
        require(inner_batch is None or inner_batch > 0, "inner_batch", inner_batch, "1 or more, or null")
        self.inner_lr, self.inner_optimizer, self.inner_batch = inner_lr, inner_optimizer, inner_batch
        self.trained_steps = None
        if inner_batch:
            self.steps = None

    def passes(self, episodes: Episodes) -> float:
        return 1.0  # it takes its steps in tests alone

    def batches(self, support: Examples, steps: int) -> Sequence[Examples]:
        if self.inner_batch is None:
            return super().batches(support, steps)
        parts = zip(support.x.split(self.inner_batch, 1), support.y.split(self.inner_batch, 1), strict=True)
        return [Examples(x, y, support.ways) for x, y in parts]

    def walk(self, support: Examples, steps: int | None = None) -> Iterator[Adapted]:
        if self.inner_batch is not None:
            steps = -(-support.x.shape[1] // self.inner_batch)
        yield from super().walk(support, steps)

    def trajectory(self, support: Examples, x: Tensor, steps: int | None = None) -> Tensor:
        return super().trajectory(support, x, steps) if self.inner_batch is None else Algorithm.trajectory(self, support, x)

    def probe(self, episodes: Episodes) -> dict[str, Tensor]:
        if self.inner_batch is None:
            return {}
        walk = (self.with_statistics(state) for state in self.walk(episodes.support))
        return by_length(self, walk, episodes, self.inner_batch)

    def findings(self, probes: Probes) -> list[Finding]:
        return findings_by_length(self, probes)

    def rule(self) -> Rule:
        return Adam(self.inner_lr) if self.inner_optimizer == "adam" else Descent(self.inner_lr)


class Finetune(PooledTraining, FineTuner):
    """Train one network on the examples of all tasks pooled, then fine-tune it on each test task's support set.

    Regression learns one function for all tasks (the pre-trained baseline of Finn et al. 2017, section 5.1). Classification learns
    to tell all training classes apart, and a test task gets a new linear head that starts at zero (Chen et al.
    2019, "A closer look at few-shot classification"; there the head alone is tuned). With ``test_steps=0`` regression is the
    plain supervised learner, which does not look at the support set.

    Args:
        spec, network: the tasks, and the configured `model`.
        tune: "all" weights or only the "head".
        common: see `FineTuner`.
    """

    def __init__(self, spec: TaskSpec, network: NetworkFactory, tune: Literal["all", "head"] = "all", **common: Any) -> None:
        super().__init__(spec, network(None), **common)
        self.tune = tune
        self.add_pooled_head()

    def initial(self, support: Examples) -> Weights:
        head: Weights = {f"head.{name}": w for name, w in self.head.named_parameters()}
        if self.spec.kind.classes:  # new classes: nothing is known of them
            head = {name: w.new_zeros(self.spec.outputs, *w.shape[1:]) for name, w in head.items()}
        return self.network.weights() | head if self.tune == "all" else head

    def forward_task(self, step: int, weights: Weights, x: Tensor, norm: Norm) -> Tensor:
        body = weights if self.tune == "all" else self.network.weights()
        return linear(self.network(body, x, norm), weights["head.weight"], weights["head.bias"])


class Scratch(FineTuner):
    """No training before the test: each task is learned from the same random initialisation, with its support set alone.

    Args:
        spec, network: the tasks, and the configured `model`.
        test_steps, inner_optimizer: see `FineTuner`.
        batch_norm: see `Algorithm`; there are no running statistics.
        common: see `FineTuner`.
    """

    trains = False

    def __init__(
        self,
        spec: TaskSpec,
        network: NetworkFactory,
        *,
        test_steps: int = 100,
        inner_optimizer: InnerOptimizer = "adam",
        batch_norm: Literal["transductive", "support"] = "transductive",
        **common: Any,
    ) -> None:
        super().__init__(
            spec,
            network(one_head(spec)),
            test_steps=test_steps,
            inner_optimizer=inner_optimizer,
            batch_norm=batch_norm,
            **common,
        )

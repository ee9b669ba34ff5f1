"""Reptile (Nichol, Achiam and Schulman, "On first-order meta-learning algorithms", 2018)."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from metarun.algo.algorithm import one_head
from metarun.algo.gradient_learner import Adapted, GradientLearner
from metarun.algo.rules import Adam, Descent, Rule
from metarun.config import require
from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.model.network import NetworkFactory, Weights

ReptileBatchNorm = Literal["transductive", "one_query", "support", "running"]


class Reptile(GradientLearner):
    """Move the initialisation towards where ordinary training on each task ends (Algorithm 2, in batches of tasks).

    The outer gradient is θ minus the mean of the tasks' adapted weights, so the outer step of the paper is
    `trainer.optimizer` SGD with a rate that falls from 1 to 0. Training takes minibatches of the support set alone, of more shots
    than a test has (`data.train_shots`), and needs no queries.

    As in the released code (github.com/openai/supervised-reptile) inner Adam has no first moment, and its second moments are
    carried from task to task; here, where tasks of an update adapt side by side, the mean over them is. A test starts from
    them and leaves them alone.

    Args:
        spec, network: the tasks, and the configured `model`.
        inner_lr: rate of the inner steps.
        inner_batch, test_batch: support examples of an inner step in training and in a test, taken in turn from shufflings of
            the support set; null, and from the support set's size on: all.
        inner_optimizer: "adam" or "sgd".
        beta1: decay of Adam's first moment; 0: none.
        inner_steps, test_steps: inner steps in training, and in validation and test.
        batch_norm: "transductive" (queries by their own statistics: the paper's transduction), "one_query" (each query in a batch
            of its own with the support set: the paper without transduction), or the other modes of `Algorithm`.
        common: see `GradientLearner`.
    """

    draws_once = True  # the shufflings

    def __init__(
        self,
        spec: TaskSpec,
        network: NetworkFactory,
        inner_lr: float,
        inner_batch: int | None = 10,
        test_batch: int | None = None,
        inner_optimizer: Literal["adam", "sgd"] = "adam",
        beta1: float = 0.0,
        *,
        inner_steps: int = 16,
        test_steps: int = 32,
        batch_norm: ReptileBatchNorm = "transductive",
        **common: Any,
    ) -> None:
        steps = {"inner_steps": inner_steps, "test_steps": test_steps}
        super().__init__(spec, network(one_head(spec)), **steps, batch_norm=batch_norm, **common)
        require(inner_lr > 0, "inner_lr", inner_lr, "a number above 0")
        require(0 <= beta1 < 1, "beta1", beta1, "0 or more and below 1")
        for key, size in {"inner_batch": inner_batch, "test_batch": test_batch}.items():
            require(size is None or size > 0, key, size, "1 or more, or null")
        self.gradient_scale = inner_lr * inner_steps  # θ − φ is the sum of the inner steps
        self.inner_lr, self.inner_batch, self.test_batch = inner_lr, inner_batch, test_batch
        self.inner_optimizer, self.beta1 = inner_optimizer, beta1
        self._seconds: list[list[Tensor]] = []
        """Second moments at the end of this update's tasks, summed over each chunk."""
        self._tasks = 0
        self.register_buffer("count", torch.zeros(()))
        for i, w in enumerate(self.adapting().values() if inner_optimizer == "adam" else ()):
            self.register_buffer(f"second_{i}", torch.zeros_like(w))

    def passes(self, episodes: Episodes) -> float:
        support = episodes.support.x.shape[1]
        return self.inner_steps * min(self.inner_batch or support, support) / support

    def rule(self) -> Rule:
        if self.inner_optimizer == "sgd":
            return Descent(self.inner_lr)
        seconds = {name: self.get_buffer(f"second_{i}") for i, name in enumerate(self.adapting())}
        return Adam(self.inner_lr, self.beta1, seconds=(seconds, self.get_buffer("count")))

    def batches(self, support: Examples, steps: int) -> Sequence[Examples]:
        count = support.x.shape[1]
        size = self.inner_batch if self.training else self.test_batch
        if size is None or size >= count:
            return [support] * steps
        # A test draws the same whenever it is made; in training torch's own generator is a function of the update.
        generator = None if self.training else torch.Generator().manual_seed(0)
        shuffles = [torch.randperm(count, generator=generator) for _ in range(-(-steps * size // count))]
        order = torch.cat(shuffles)[: steps * size]
        minibatches = (numbers.to(support.x.device, non_blocking=True) for numbers in order.split(size))
        return [Examples(support.x[:, numbers], support.y[:, numbers], support.ways) for numbers in minibatches]

    @torch.no_grad()
    def gradients(self, episodes: Episodes) -> tuple[Tensor, Weights]:
        end, adapting = self.end(episodes.support), self.adapting()
        losses = self.spec.kind.losses(self.predict(self.with_statistics(end), episodes.query.x), episodes.query.y)
        self._seconds.append([end.carried[f"second.{name}"].sum(0) for name in adapting if end.carried])
        self._tasks += len(episodes)
        return losses, {name: w - end.weights[name] for name, w in adapting.items()}

    def take_pending(self) -> Any:
        taken = super().take_pending(), self._seconds, self._tasks
        self._seconds, self._tasks = [], 0
        return taken

    def add_pending(self, pending: Any) -> None:
        seen, seconds, tasks = pending
        super().add_pending(seen)
        self._seconds += seconds
        self._tasks += tasks

    @torch.no_grad()
    def write_statistics(self) -> None:
        super().write_statistics()
        for i, sums in enumerate(zip(*self._seconds, strict=True)):
            self.get_buffer(f"second_{i}").copy_(torch.stack(sums).sum(0) / self._tasks)
        self.get_buffer("count").add_(self.inner_steps)
        self._seconds, self._tasks = [], 0

    def eval_steps(self, steps: int) -> list[int]:
        # Each look at one query after the other puts the whole support set through the network once a query.
        return [0, steps] if self.batch_norm == "one_query" and steps else super().eval_steps(steps)

    def predict(self, state: Adapted, x: Tensor) -> Tensor:
        # In training the loss of the queries is for the log alone, and one batch of them will do.
        if self.training or self.batch_norm != "one_query" or not self.network.statistics.channels:
            return super().predict(state, x)
        passes = [self.network(state.weights, torch.cat([state.support.x, query], 1))[:, -1:] for query in x.split(1, 1)]
        return torch.cat(passes, 1)

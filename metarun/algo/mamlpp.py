"""MAML++ (Antoniou, Edwards and Storkey, "How to train your MAML", ICLR 2019)."""

from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn

from metarun.algo.algorithm import one_head
from metarun.algo.gradient_learner import GradientLearner
from metarun.algo.rules import Descent, LearnedRates, Rule
from metarun.config import require
from metarun.episodes import Episodes, TaskSpec
from metarun.model.network import NetworkFactory, Weights, matching
from metarun.model.norm import Norm, RunningStatistics


class MAMLpp(GradientLearner):
    """MAML with what makes it stable (section 4): multi-step loss, learned rates, and batch norms that belong to a step.

    - Multi-step loss (equation 4): queries are scored after every inner step. All steps count alike at first; over the share
      ``multi_step`` of training the weight moves to the last step, which then counts alone.
    - Learned rates: one a tensor of weights and inner step.
    - Batch norms: each step has its own scale and shift, which do not adapt in the inner loop, and under "running" its own
      running statistics. Those of step k are moved by every training pass at step k: over the support set before the update of
      the weights, and over the queries after it where these are scored.
    - Derivative-order annealing: the first order until ``first_order_until`` of training is done (0: never, as in the code).

    The cosine schedule of the outer rate is `trainer.scheduler`, the mean of the five best checkpoints' predictions
    `trainer.keep_best=5`. A test may take more steps than training; a step beyond the last one has the last one's rates and norms.

    The released code (github.com/AntreasAntoniou/HowToTrainYourMAMLPytorch) keeps running statistics but always normalises with
    those of the batch: "transductive" here.

    Args:
        spec, network: the tasks, and the configured `model`.
        inner_lr: initial rate of the inner steps.
        multi_step: share of training, from 0 (only the last step counts, from the start) to 1, over which steps before the last
            lose their weight.
        first_order_until: share of training that leaves out the second derivatives.
        per_step: patterns of the weights of which each step has its own, and which do not adapt.
        inner_steps, test_steps: inner steps in training, and in validation and test.
        recompute: see `UnrolledLearner`.
        common: see `GradientLearner`.
    """

    records_support = True  # a step before the last has no query pass once the last counts alone

    def __init__(
        self,
        spec: TaskSpec,
        network: NetworkFactory,
        inner_lr: float,
        multi_step: float = 0.15,
        first_order_until: float = 0.0,
        per_step: tuple[str, ...] = ("norms.*",),
        *,
        inner_steps: int = 5,
        test_steps: int = 5,
        recompute: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(spec, network(one_head(spec)), inner_steps=inner_steps, test_steps=test_steps, **common)
        self.recompute = recompute
        require(inner_lr > 0, "inner_lr", inner_lr, "a number above 0")
        require(0 <= multi_step <= 1, "multi_step", multi_step, "0 to 1, a share of training")
        require(0 <= first_order_until <= 1, "first_order_until", first_order_until, "0 to 1, a share of training")
        self.multi_step, self.first_order_until = multi_step, first_order_until
        weights = self.network.weights()
        self.frozen = matching(weights, per_step) - self.network.fixed
        self.rates = LearnedRates(self.adapting(), inner_lr, "tensor", inner_steps)
        self.own_names = sorted(self.frozen)
        self.own = nn.ParameterList(
            weights[name].detach().repeat(inner_steps, *[1] * weights[name].dim()) for name in self.own_names
        )
        for name in self.own_names:  # every step replaces them by its own
            weights[name].requires_grad_(False)
        channels = self.network.statistics.channels if self.batch_norm == "running" else {}
        self.step_statistics = nn.ModuleList(RunningStatistics(channels) for _ in range(inner_steps))

    @property
    def first_order(self) -> bool:  # type: ignore[override]
        return self.progress < self.first_order_until

    def rule(self) -> Rule:
        return Descent(self.rates)

    def forward_task(self, step: int, weights: Weights, x: Tensor, norm: Norm) -> Tensor:
        step = min(step, self.inner_steps - 1)
        own = {name: values[step] for name, values in zip(self.own_names, self.own, strict=True)}
        return self.network(weights | own, x, norm)

    def statistics(self, step: int) -> RunningStatistics:
        of_step: RunningStatistics = self.step_statistics[min(step, self.inner_steps - 1)]  # type: ignore[assignment]
        return of_step

    @property
    def phase(self) -> Hashable | None:
        """None while the weights of the steps' losses are annealed; then whether gradients are of the first order."""
        return None if self.progress < self.multi_step or self.recompute else self.progress < self.first_order_until

    def losses(self, episodes: Episodes) -> Tensor:
        if self.progress >= self.multi_step:
            return super().losses(episodes)
        query = episodes.query
        total = torch.zeros(len(episodes), device=query.x.device, dtype=query.x.dtype)
        states = list(self.walk(episodes.support))[1:]
        for weight, state in zip(self.step_weights(), states, strict=True):
            total = total + weight * self.spec.kind.losses(self.predict(self.with_statistics(state), query.x), query.y)
        return total

    def step_weights(self) -> list[float]:
        """How much the queries' loss after each inner step counts now; they add up to 1.

        A step before the last one falls from 1/S to a floor of 0.03/S, as in the released code.
        """
        steps = self.inner_steps
        early = max(1 / steps * (1 - self.progress / self.multi_step), 0.03 / steps)
        return [early] * (steps - 1) + [1 - early * (steps - 1)]

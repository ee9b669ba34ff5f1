"""Learners that adapt by gradient steps on the support set: what they share, and the hooks by which they differ."""

from collections.abc import Hashable, Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from metarun.algo.algorithm import Algorithm
from metarun.algo.inner_loop import inner_loop
from metarun.algo.rules import Rule
from metarun.config import require
from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.model.network import Network, Weights
from metarun.model.norm import Norm, RunningStatistics, Statistics


class Adapted(NamedTuple):
    """T tasks after some inner steps."""

    weights: Weights
    """Of each task."""
    statistics: Statistics | None
    """What queries are normalised with; None: their own."""
    steps: int
    """How many were taken."""
    support: Examples
    carried: Weights
    """By the rule, see `Rule`."""


class GradientLearner(Algorithm):
    """A learner that adapts weights to a support set by gradient steps on its loss.

    Subclasses define what the outer loop learns. The hooks are `initial`, `rule`, `forward_task`, `batches`, `support_losses`
    and `statistics`.

    Args:
        spec: of the tasks.
        network: whose weights adapt.
        inner_steps: inner steps in training.
        test_steps: inner steps in validation and test.
        common: see `Algorithm`. With batch_norm=support, queries are normalised by the statistics of their support set at the
            adapted weights.

    Attributes:
        first_order: whether the outer gradient treats the inner gradients as constants.
        recompute: see `inner_loop`; in training only, because what is measured in evaluation mode (`metarun.cl.fisher`) takes
            its gradients by `torch.autograd.grad`.
        records_support: whether training passes over support sets update the running statistics, as those over queries do.
    """

    first_order: bool = True
    recompute: bool = False
    records_support: ClassVar[bool] = False

    def __init__(self, spec: TaskSpec, network: Network, *, inner_steps: int = 1, test_steps: int = 10, **common: Any) -> None:
        super().__init__(spec, **common)
        require(inner_steps > 0, "inner_steps", inner_steps, "1 or more")
        require(test_steps >= 0, "test_steps", test_steps, "0 or more")
        self.network = network
        self.inner_steps = self.trained_steps = inner_steps
        self.steps = test_steps
        self.frozen: frozenset[str] = frozenset()

    @property
    def phase(self) -> Hashable | None:
        """None with `recompute`: a program would keep what that leaves out."""
        return None if self.recompute else 0

    def passes(self, episodes: Episodes) -> float:
        return 1.0 + self.inner_steps

    def adapting(self) -> Weights:
        """The network's slow weights that adapt in the inner loop."""
        held = self.frozen | self.network.fixed
        return {name: w for name, w in self.network.weights().items() if name not in held}

    def initial(self, support: Examples) -> Weights:
        """The weights that every task starts from; those in `frozen` may be a set for each of the tasks of ``support``."""
        return self.network.weights()

    def rule(self) -> Rule:
        """How an inner step moves them."""
        raise NotImplementedError

    def forward_task(self, step: int, weights: Weights, x: Tensor, norm: Norm) -> Tensor:
        """Outputs (T, n, outputs) for ``x`` of T tasks with ``weights`` at inner step ``step``."""
        return self.network(weights, x, norm)

    def support_losses(self, step: int, weights: Weights, support: Examples, norm: Norm) -> Tensor:
        """What inner step ``step`` descends, (T,)."""
        return self.spec.kind.losses(self.forward_task(step, weights, support.x, norm), support.y)

    def statistics(self, step: int) -> RunningStatistics:
        """The running statistics of the mode `running` at inner step ``step``."""
        return self.network.statistics

    def batches(self, support: Examples, steps: int) -> Sequence[Examples]:
        """The support examples that each inner step descends on."""
        return [support] * steps

    def adapt(self, support: Examples, steps: int | None = None) -> Adapted:
        return self.with_statistics(self.end(support, steps))

    def predict(self, state: Adapted, x: Tensor) -> Tensor:
        step = max(state.steps - 1, 0)  # what belongs to a step (MAML++'s norms) is for the queries after it, too
        running = self.statistics(step)
        norm = self.norm(query=True, statistics=running) if state.statistics is None else Norm(state.statistics)
        out = self.forward_task(step, state.weights, x, norm)
        self.observe(norm, running)
        return out

    def trajectory(self, support: Examples, x: Tensor, steps: int | None = None) -> Tensor:
        steps = self.inner_steps if steps is None else steps
        looks = self.eval_steps(steps)
        states = (state for state in self.walk(support, steps) if state.steps in looks)
        return torch.stack([self.predict(self.with_statistics(state), x) for state in states])

    def end(self, support: Examples, steps: int | None = None) -> Adapted:
        """The last state of `walk`."""
        for state in self.walk(support, steps):
            last = state
        return last

    def walk(self, support: Examples, steps: int | None = None) -> Iterator[Adapted]:
        """Each task after 0, 1, … ``steps`` inner steps (None: as in training)."""
        steps = self.inner_steps if steps is None else steps
        batches = self.batches(support, steps)
        norms: dict[int, Norm] = {}

        def losses(step: int, weights: Weights) -> Tensor:
            norms[step] = self.norm(query=False, record=self.records_support, statistics=self.statistics(step))
            return self.support_losses(step, weights, batches[step], norms[step])

        path = inner_loop(
            losses,
            self.initial(support),
            support.x.shape[0],
            self.rule(),
            steps,
            first_order=self.first_order,
            frozen=self.frozen | self.network.fixed,
            recompute=self.recompute and self.training,
        )
        for number, (weights, carried) in enumerate(path):
            if number:  # here and not in the step itself, which `recompute` takes twice
                self.observe(norms[number - 1], self.statistics(number - 1))
            yield Adapted(weights, None, number, support, carried)

    def with_statistics(self, state: Adapted) -> Adapted:
        """``state`` with the statistics of its support set, under the mode `support`."""
        if self.batch_norm != "support":
            return state
        norm = Norm(record="graph")
        self.forward_task(max(state.steps - 1, 0), state.weights, state.support.x, norm)
        return state._replace(statistics=norm.seen)


class UnrolledLearner(GradientLearner):
    """A gradient learner whose outer gradient goes through the inner steps.

    Args:
        spec: of the tasks.
        network: whose weights adapt.
        first_order: leave out the second derivatives.
        recompute: compute each inner step twice and keep the activations of one step at a time.
        common: see `GradientLearner`.
    """

    def __init__(
        self, spec: TaskSpec, network: Network, *, first_order: bool = False, recompute: bool = False, **common: Any
    ) -> None:
        super().__init__(spec, network, **common)
        self.first_order, self.recompute = first_order, recompute

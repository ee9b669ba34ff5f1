"""The inner loop of every gradient-based learner: steps on T tasks at once, by any rule, and what such learners share."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from metarun.algo.algorithm import Algorithm
from metarun.config import ConfigError, RangeError, require
from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.model.layers import per_task
from metarun.model.network import Network, Weights
from metarun.model.norm import Norm, RunningStatistics, Statistics

# Rules ------------------------------------------------------------------------------------------------------------------------


class Rule(Protocol):
    """How an inner step moves weights. What it carries from step to step is tensors by name, the same names at every step."""

    def start(self, weights: Weights) -> Weights:
        """What is carried into the first step from ``weights``, each with a leading task axis."""
        ...

    def move(self, step: int, weights: Weights, gradients: Weights, losses: Tensor, carried: Weights) -> tuple[Weights, Weights]:
        """Weights after step ``step`` (0, 1, …) and what is carried on; ``losses`` (T,) are those that were differentiated."""
        ...


class Rate(Protocol):
    """The inner learning rate of a weight: a number, or a tensor that broadcasts to the weight without its task axis."""

    def __call__(self, step: int, name: str) -> Tensor | float: ...


class Descent:
    """Gradient descent, at one rate or at a rate for each weight and step."""

    def __init__(self, rate: Rate | float) -> None:
        self.rate: Rate = rate if callable(rate) else lambda step, name: rate

    def start(self, weights: Weights) -> Weights:
        return {}

    def move(self, step: int, weights: Weights, gradients: Weights, losses: Tensor, carried: Weights) -> tuple[Weights, Weights]:
        return {name: self.moved(w, gradients[name], self.rate(step, name)) for name, w in weights.items()}, carried

    @staticmethod
    def moved(w: Tensor, gradient: Tensor, rate: Tensor | float) -> Tensor:
        # A number goes into the sum: one pass over the weights of all tasks instead of two, and again in its gradient.
        return w - rate * gradient if isinstance(rate, Tensor) else w.add(gradient, alpha=-rate)


class Adam:
    """Adam (Kingma and Ba 2015), its moments those of each task.

    Args:
        rate: of learning.
        beta1, beta2: decay of the first and the second moment.
        seconds: second moments to begin with, of the weights' own shapes, and the number of steps that made them; None: none.
    """

    def __init__(
        self, rate: float, beta1: float = 0.9, beta2: float = 0.999, seconds: tuple[Weights, Tensor] | None = None
    ) -> None:
        self.rate, self.beta1, self.beta2, self.seconds = rate, beta1, beta2, seconds

    def start(self, weights: Weights) -> Weights:
        first = {f"first.{name}": torch.zeros_like(w) for name, w in weights.items()} if self.beta1 else {}
        if self.seconds is None:
            return first | {f"second.{name}": torch.zeros_like(w) for name, w in weights.items()}
        return first | {f"second.{name}": self.seconds[0][name].expand_as(w) for name, w in weights.items()}

    def move(self, step: int, weights: Weights, gradients: Weights, losses: Tensor, carried: Weights) -> tuple[Weights, Weights]:
        made = step + 1 if self.seconds is None else self.seconds[1] + (step + 1)
        kept, moved = {}, {}
        for name, w in weights.items():
            gradient = gradients[name]
            second = self.beta2 * carried[f"second.{name}"] + (1 - self.beta2) * gradient.square()
            kept[f"second.{name}"] = second
            direction = gradient
            if self.beta1:
                first = self.beta1 * carried[f"first.{name}"] + (1 - self.beta1) * gradient
                kept[f"first.{name}"] = first
                direction = first / (1 - self.beta1 ** (step + 1))
            moved[name] = w - self.rate * direction / ((second / (1 - self.beta2**made)).sqrt() + 1e-8)
        return moved, kept


class LearnedRates(nn.Module):
    """Rates that the outer loop learns, `rates(step, name)`.

    Args:
        weights: the weights that adapt, of their own shapes.
        initial: of every rate, or the bounds of a uniform distribution.
        each: one rate a "weight" (Meta-SGD), or one a "tensor" of weights, which is what others call a layer (MAML++).
        steps: as many sets of rates, a further step taking the last; None: one set for all steps.
    """

    def __init__(self, weights: Weights, initial: float | tuple[float, float], each: str, steps: int | None = None) -> None:
        super().__init__()
        self.index = {name: i for i, name in enumerate(weights)}
        self.steps = steps
        low, high = (initial, initial) if isinstance(initial, float | int) else initial
        shapes = [w.shape if each == "weight" else w.shape[:0] for w in weights.values()]
        self.rates = nn.ParameterList(nn.Parameter(torch.empty(steps or 1, *shape).uniform_(low, high)) for shape in shapes)

    def forward(self, step: int, name: str) -> Tensor:
        rates: Tensor = self.rates[self.index[name]]
        return rates[min(step, self.steps - 1) if self.steps else 0]


# The loop ---------------------------------------------------------------------------------------------------------------------


def inner_loop(
    losses: Callable[[int, Weights], Tensor],
    weights: Weights,
    tasks: int,
    rule: Rule,
    steps: int,
    *,
    first_order: bool = False,
    frozen: frozenset[str] = frozenset(),
    recompute: bool = False,
) -> Iterator[tuple[Weights, Weights]]:
    """Weights of each task after 0, 1, … ``steps`` steps, each with what the rule carries on from there.

    Under `torch.no_grad` (a test) each step's graph is dropped; otherwise the weights stay functions of the slow ones, to the
    second order unless ``first_order``, which takes the inner gradients for constants.

    Args:
        losses: step number and weights with a leading task axis → the loss of each task on its support set, (T,).
        weights: the slow weights, shared by all tasks.
        tasks: T.
        rule: of a step.
        steps: inner steps.
        first_order: do not differentiate through the inner gradients.
        frozen: names of weights that do not adapt; they are passed on as they are, without a task axis where they have none.
        recompute: keep only each step's weights, and compute the step once more when the outer gradient passes it: memory
            for one step's activations whatever the number of steps, for a third more time. The outer gradient must then be
            taken by `backward()`, not by `torch.autograd.grad`.

    Raises:
        ConfigError: all weights are frozen.
    """
    if frozen.issuperset(weights):
        raise ConfigError("model: no weight adapts in the inner loop: each is frozen, or was made with requires_grad=False")
    fixed = {name: w for name, w in weights.items() if name in frozen}
    fast = {name: per_task(w, tasks) for name, w in weights.items() if name not in frozen}
    carried = rule.start(fast)
    # Those that are functions of the slow weights: a recomputed step's gradient may not go further back than its arguments.
    made = {name: w for name, w in fixed.items() if w.requires_grad and not w.is_leaf}

    def one_step(step: int, fast: Weights, carried: Weights, fixed: Weights = fixed) -> tuple[Weights, Weights]:
        training = torch.is_grad_enabled()
        with torch.enable_grad():
            fast = {name: w if training and w.requires_grad else w.detach().requires_grad_() for name, w in fast.items()}
            of_tasks = losses(step, fixed | fast)
            # Tasks do not touch each other's weights, so the gradient of the sum is each task's own gradient.
            gradients = torch.autograd.grad(of_tasks.sum(), list(fast.values()), create_graph=training and not first_order)
        return rule.move(step, fast, dict(zip(fast, gradients, strict=True)), of_tasks.detach(), carried)

    def recomputed_step(step: int, fast: Weights, carried: Weights) -> tuple[Weights, Weights]:
        def flat(*tensors: Tensor) -> tuple[Tensor, ...]:
            given, rest = dict(zip(made, tensors, strict=False)), tensors[len(made) :]
            moved, kept = one_step(step, *unflat(rest), fixed | given)
            return *moved.values(), *kept.values()

        def unflat(tensors: tuple[Tensor, ...]) -> tuple[Weights, Weights]:
            return dict(zip(fast, tensors, strict=False)), dict(zip(carried, tensors[len(fast) :], strict=True))

        fast = {name: w if w.requires_grad else w.detach().requires_grad_() for name, w in fast.items()}
        # The reentrant form alone: the other one's saved tensors would be unpacked by the inner gradient already.
        return unflat(checkpoint(flat, *made.values(), *fast.values(), *carried.values(), use_reentrant=True))

    yield fixed | fast, carried
    for step in range(steps):
        take = recomputed_step if recompute and torch.is_grad_enabled() else one_step
        fast, carried = take(step, fast, carried)
        yield fixed | fast, carried


# Learners ---------------------------------------------------------------------------------------------------------------------


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


def matching(names: Iterable[str], patterns: Iterable[str]) -> frozenset[str]:
    """The names that match one of ``patterns`` (`norms.*`)."""
    return frozenset(name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns))


def one_head(spec: TaskSpec) -> int:
    """The outputs of a learner whose head is shared by training and test.

    Raises:
        RangeError: training tasks have other ways than test tasks.
    """
    if spec.train_outputs != spec.outputs:
        raise RangeError("data.train_ways", spec.train_outputs, f"data.ways ({spec.outputs}): the head has one size")
    return spec.outputs

"""The inner loop of every gradient-based learner: steps on T tasks at once, by any rule."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from metarun.algo.rules import Rule
from metarun.config import ConfigError
from metarun.model.layers import per_task
from metarun.model.network import Weights


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

"""The inner loop of every gradient-based learner: gradient steps on T tasks at once."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from metarun.model.network import Weights


def inner_loop(
    losses: Callable[[Weights], Tensor],
    weights: Weights,
    tasks: int,
    rate: float,
    steps: int,
    *,
    first_order: bool,
    frozen: frozenset[str] = frozenset(),
) -> Iterator[Weights]:
    """Weights of each task after 0, 1, … ``steps`` steps of gradient descent.

    Under `torch.no_grad` (a test) each step's graph is dropped; otherwise the weights stay functions of the slow ones, to the
    second order unless ``first_order``, which takes the inner gradients for constants.

    Args:
        losses: weights with a leading task axis → the loss of each task on its support set, (T,).
        weights: the slow weights, shared by all tasks.
        tasks: T.
        rate: the inner learning rate.
        steps: inner steps.
        first_order: do not differentiate through the inner gradients.
        frozen: names of weights that do not adapt.
    """
    training = torch.is_grad_enabled()
    fast = {name: w if name in frozen else w.expand(tasks, *w.shape) for name, w in weights.items()}
    adapting = [name for name in fast if name not in frozen]
    yield fast
    for _ in range(steps):
        with torch.enable_grad():
            if not training:
                fast = {name: w.detach().requires_grad_(name not in frozen) for name, w in fast.items()}
            # Tasks do not touch each other's weights, so the gradient of the sum is each task's own gradient.
            gradients = torch.autograd.grad(
                losses(fast).sum(), [fast[name] for name in adapting], create_graph=training and not first_order
            )
        with torch.set_grad_enabled(training):
            moved = {name: fast[name] - rate * g for name, g in zip(adapting, gradients, strict=True)}
        fast = fast | moved
        yield fast

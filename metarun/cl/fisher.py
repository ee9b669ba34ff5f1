"""The diagonal of a learner's Fisher information, and the sensitivity of its outputs to each weight, as means over episodes.

Both are per episode (axis 0 of a batch), which in a stream of examples means per example. Squaring the gradient of a batch's mean
loss instead underestimates the diagonal by about a factor of the batch size (docs/continual.md). Two correct ways:

- The gradient of each episode. A linear or convolutional layer with shared weights contributes the product of its input A (n, in)
  and the gradient G (n, out) at its output, so one backward pass to the outputs gives the gradients of all episodes; for n = 1 the
  sum of squares is (G²)ᵀ A² (Goodfellow, "Efficient per-example gradient computations", 2015). Each episode gets its own copy of
  the other weights of the network (those of norms). A learner that adapts by gradient steps needs one backward pass per episode,
  through these steps.
- Labels sampled from the learner. The scores of different episodes are then independent with mean 0, so the expected square of
  their sum is the sum of the expected squares, and one ordinary backward pass per batch suffices for any learner.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from metarun.algo.algorithm import Algorithm, eval_mode
from metarun.config import ConfigError
from metarun.data.source import TaskSource
from metarun.episodes import Episodes
from metarun.kinds import Kind
from metarun.model.context import Call, recorded, replaced
from metarun.model.network import Weights

Labels = Literal["sampled", "exact", "true", "argmax"]
"""Labels whose score is squared: sampled from the learner; all labels, weighted by their probability (single queries only); the
data's labels (the "empirical Fisher", biased); the most likely label (biased). Regression samples from a unit normal."""

EPISODES = 500
"""Default number of episodes of an infinite source."""
BATCH, BATCHES, COPIED = 128, 64, 2**25
"""Largest batch of episodes; smallest number of batches, each of which is one draw of the sampled estimate; and the largest number
of elements in the weight copies and gradients of a batch."""


def fisher(algorithm: Algorithm, source: TaskSource, labels: Labels = "sampled", samples: int | None = None) -> Weights:
    """Mean over episodes of the squared gradient of −log p(labels), by name of the learner's weights.

    Computed in evaluation mode; outputs that are not active in an episode have probability 0 and contribute nothing.

    Args:
        algorithm: the learner, which is not changed.
        source: of the episodes.
        labels: see `Labels`; "sampled" takes one backward pass per batch with any learner; for the others see `episode_gradients`.
        samples: number of episodes; None: all of a finite source, else 500.
    """
    if labels != "sampled":
        return episode_gradients(
            algorithm, source, samples, torch.square, lambda out, y: scores(algorithm.spec.kind, out, y, labels)
        )
    total = {name: torch.zeros_like(w) for name, w in algorithm.named_parameters() if w.requires_grad}
    weights = [algorithm.get_parameter(name) for name in total]
    count = 0
    with eval_mode(algorithm):
        for episodes in batches(source, samples):
            (losses,) = scores(algorithm.spec.kind, *algorithm.outputs_and_targets(episodes), labels)
            gradients = torch.autograd.grad(losses.sum(), weights, allow_unused=True)
            for sum_of_squares, gradient in zip(total.values(), gradients, strict=True):
                if gradient is not None:
                    sum_of_squares.addcmul_(gradient, gradient)
            count += len(episodes)
    return {name: value / count for name, value in total.items()}


def sensitivity(algorithm: Algorithm, source: TaskSource, samples: int | None = None) -> Weights:
    """Mean over episodes of |∂ ‖f(x)‖² / ∂θ|, by name of the learner's weights (Aljundi et al. 2018, section 4.1)."""
    return episode_gradients(algorithm, source, samples, torch.abs, lambda out, y: iter([out.square().sum((1, 2))]))


def scores(kind: Kind, outputs: Tensor, y: Tensor, labels: Labels) -> Iterator[Tensor]:
    """−log p of each episode's labels, (T,); for "exact" one such tensor per label, times √p, so that squares are weighted by p.

    Args:
        kind: of task.
        outputs: of the learner, (T, n, outputs).
        y: the data's labels (T, n), or targets (T, n, outputs).
        labels: see `Labels`.
    """
    if not kind.classes:
        if labels not in ("sampled", "true"):
            raise ConfigError(f"cl.labels={labels}: needs classification; choose sampled")
        y = y if labels == "true" else outputs.detach() + torch.randn_like(outputs)
        yield 0.5 * (outputs - y).square().sum((1, 2))
        return
    log_p = outputs.log_softmax(-1)
    p = log_p.detach().exp()
    if labels == "exact":
        if outputs.shape[1] != 1:
            raise ConfigError("cl.labels=exact: needs a stream of single examples; choose sampled")
        active = (p > 0).any(0).flatten().nonzero()[:, 0].tolist()
        yield from (-log_p[:, 0, label] * p[:, 0, label].sqrt() for label in active)
        return
    if labels == "sampled":
        y = torch.multinomial(p.flatten(0, 1), 1).view(p.shape[:2])
    elif labels == "argmax":
        y = p.argmax(-1)
    yield F.nll_loss(log_p.flatten(0, 1), y.flatten(), reduction="none").view(y.shape).sum(1)


def batches(source: TaskSource, samples: int | None, size: int | None = None) -> Iterator[Episodes]:
    """``samples`` episodes of ``source``; None: all of a finite source, else 500."""
    if source.count is not None and (samples is None or samples >= source.count):
        source, samples = source.in_order(), source.count
    count = samples or EPISODES
    for ids in torch.arange(count).split(size or max(1, min(BATCH, count // BATCHES))):
        yield source.sample(ids)


# Gradients of single episodes -------------------------------------------------------------------------------------------------


def episode_gradients(
    algorithm: Algorithm,
    source: TaskSource,
    samples: int | None,
    power: Callable[[Tensor], Tensor],
    losses: Callable[[Tensor, Tensor], Iterator[Tensor]],
) -> Weights:
    """Mean over episodes of ``power`` of the gradient of the episode's loss, by name of the learner's weights.

    One backward pass serves many episodes if the learner is `feedforward` and tasks share the weights of linear and convolutional
    layers; any other learner takes one pass per episode.

    Args:
        algorithm: the learner, which is not changed.
        source: of the episodes.
        samples: number of episodes, see `batches`.
        power: a multiplicative function: `torch.square` or `torch.abs`.
        losses: outputs (T, n, outputs) and labels → one or several losses (T,), whose powers are summed.
    """
    total = {name: torch.zeros_like(w) for name, w in algorithm.named_parameters() if w.requires_grad}
    count = 0
    with eval_mode(algorithm):
        with recorded() as calls:
            algorithm.outputs_and_targets(source.sample(torch.arange(1)))
        copied = _uncovered(algorithm, calls) if algorithm.feedforward else None
        if copied is None:
            return _one_by_one(algorithm, batches(source, samples), power, losses)
        numbers = sum(w.numel() for w in copied.values())
        for episodes in batches(source, samples, max(1, min(BATCH, COPIED // max(numbers, 1)))):
            copies = {name: w.detach().expand(len(episodes), *w.shape).clone().requires_grad_() for name, w in copied.items()}
            with replaced(algorithm.network, copies), recorded() as calls:
                outputs_and_targets = algorithm.outputs_and_targets(episodes)
            for loss in losses(*outputs_and_targets):
                _add(total, algorithm, calls, copies, loss, power)
            count += len(episodes)
    return {name: value / count for name, value in total.items()}


def _one_by_one(
    algorithm: Algorithm,
    batches: Iterator[Episodes],
    power: Callable[[Tensor], Tensor],
    losses: Callable[[Tensor, Tensor], Iterator[Tensor]],
) -> Weights:
    total = {name: torch.zeros_like(w) for name, w in algorithm.named_parameters() if w.requires_grad}
    weights = [algorithm.get_parameter(name) for name in total]
    count = 0
    for episode in (episode for episodes in batches for episode in episodes.split(1)):
        for loss in losses(*algorithm.outputs_and_targets(episode)):
            gradients = torch.autograd.grad(loss.sum(), weights, retain_graph=True, allow_unused=True)
            for value, gradient in zip(total.values(), gradients, strict=True):
                if gradient is not None:
                    value += power(gradient)
        count += 1
    return {name: value / count for name, value in total.items()}


def _uncovered(algorithm: Algorithm, calls: list[Call]) -> Weights | None:
    """The network's weights, by name, that no recorded layer uses; None if the learner has such weights outside its network."""
    seen = {id(w) for call in calls for w in (call.weight, call.bias) if w is not None}
    of_network = {id(w): name for name, w in algorithm.network.weights().items()}
    uncovered: Weights = {}
    for w in algorithm.parameters():
        if id(w) in seen or not w.requires_grad:
            continue
        if id(w) not in of_network:
            return None
        uncovered[of_network[id(w)]] = w
    return uncovered


def _add(
    total: Weights,
    algorithm: Algorithm,
    calls: list[Call],
    copies: Weights,
    losses: Tensor,
    power: Callable[[Tensor], Tensor],
) -> None:
    """Add the ``power`` of each episode's gradient to ``total``."""
    ends = [call.out for call in calls] + list(copies.values())
    gradients = torch.autograd.grad(losses.sum(), ends, retain_graph=True, allow_unused=True)
    inputs: dict[int, list[Tensor]] = defaultdict(list)
    above: dict[int, list[Tensor]] = defaultdict(list)
    biases: dict[int, list[Tensor]] = defaultdict(list)
    for call, gradient in zip(calls, gradients, strict=False):
        if gradient is not None:
            a, g = call.rows(gradient)
            inputs[id(call.weight)].append(a)
            above[id(call.weight)].append(g)
            if call.bias is not None:
                biases[id(call.bias)].append(g)
    own = {id(w): gradient for w, gradient in zip(copies.values(), gradients[len(calls) :], strict=True)}
    copy_of = {id(w): own[id(copies[name])] for name, w in dict(algorithm.network.weights()).items() if name in copies}
    for name, value in total.items():
        w = algorithm.get_parameter(name)
        if id(w) in inputs:
            value += _outer(torch.cat(inputs[id(w)], 1), torch.cat(above[id(w)], 1), power).view_as(value)
        elif id(w) in biases:
            value += power(torch.cat(biases[id(w)], 1).sum(1)).sum(0)
        elif copy_of.get(id(w)) is not None:
            value += power(copy_of[id(w)]).sum(0)


def _outer(a: Tensor, g: Tensor, power: Callable[[Tensor], Tensor]) -> Tensor:
    """Σ over episodes of the power of gᵀ a, for ``a`` (T, n, in) and ``g`` (T, n, out) → (out, in)."""
    if a.shape[1] == 1:  # the power of a product is the product of powers, so no episode's gradient is materialised
        return power(g[:, 0]).T @ power(a[:, 0])
    size = max(1, COPIED // (a.shape[2] * g.shape[2]))
    parts = zip(a.split(size), g.split(size), strict=True)
    return torch.stack([power(part_g.mT @ part_a).sum(0) for part_a, part_g in parts]).sum(0)

"""The diagonal of the Fisher information of a learner, and how its output reacts to each weight: per episode, then the mean.

The unit is axis 0 of a batch of episodes, so for a stream of examples it is the example. Squaring the gradient of a batch's mean
loss instead makes the diagonal smaller by about the batch's size and is no estimate of it (docs/continual.md). Two right ways:

- Every episode's own gradient. What a linear or convolutional layer with shared weights adds to it is the product of its
  input A (n, in) and the gradient G (n, out) at its output, so one backward pass to the outputs gives all episodes: for n = 1 the
  sum of squares is (G²)ᵀ A² (Goodfellow, "Efficient per-example gradient computations", 2015). Other weights of the network
  (those of norms) are given to each episode as a copy of its own. A learner that adapts by gradient steps takes a backward pass
  an episode, through them.
- With labels sampled from the learner itself, the scores of different episodes are independent with mean 0, so the expected square
  of their sum is the sum of their squares: one ordinary backward pass a batch, for any learner.
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
"""Whose score is squared: that of labels drawn from the learner; of every label, by its probability (for single queries); of the
data's labels (the "empirical Fisher", biased); of the likeliest label (biased). Regression draws from a unit normal."""

EPISODES = 500
"""To measure on, where there is no finite number."""
BATCH, BATCHES, COPIED = 128, 64, 2**25
"""Episodes at once at most; at least so many batches, each of which is one draw of the sampled estimate; and the most numbers in
the copies and gradients of a batch."""


def fisher(algorithm: Algorithm, source: TaskSource, labels: Labels = "sampled", samples: int | None = None) -> Weights:
    """Mean over episodes of the squared gradient of −log p(labels), by the names of the learner's weights.

    In evaluation mode; the outputs that are not active for an episode have probability 0, so they add nothing.

    Args:
        algorithm: the learner, left as it is.
        source: of the episodes.
        labels: see `Labels`; "sampled" takes one backward pass a batch with any learner, for the others see `episode_gradients`.
        samples: episodes; None: all of a finite source, else 500.
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
    """Mean over episodes of |∂ ‖f(x)‖² / ∂θ|, by the names of the learner's weights (Aljundi et al. 2018, section 4.1)."""
    return episode_gradients(algorithm, source, samples, torch.abs, lambda out, y: iter([out.square().sum((1, 2))]))


def scores(kind: Kind, outputs: Tensor, y: Tensor, labels: Labels) -> Iterator[Tensor]:
    """−log p of each episode's labels, (T,); for "exact" one a label, times √p, so that its square counts by p.

    Args:
        kind: of task.
        outputs: of the learner, (T, n, outputs).
        y: the data's labels (T, n), or targets (T, n, outputs).
        labels: whose score it is.
    """
    if not kind.classes:
        if labels not in ("sampled", "true"):
            raise ConfigError(f"cl.labels={labels}: for classes; choose sampled")
        y = y if labels == "true" else outputs.detach() + torch.randn_like(outputs)
        yield 0.5 * (outputs - y).square().sum((1, 2))
        return
    log_p = outputs.log_softmax(-1)
    p = log_p.detach().exp()
    if labels == "exact":
        if outputs.shape[1] != 1:
            raise ConfigError("cl.labels=exact: for streams of single examples; choose sampled")
        active = (p > 0).any(0).flatten().nonzero()[:, 0].tolist()
        yield from (-log_p[:, 0, label] * p[:, 0, label].sqrt() for label in active)
        return
    if labels == "sampled":
        y = torch.multinomial(p.flatten(0, 1), 1).view(p.shape[:2])
    elif labels == "argmax":
        y = p.argmax(-1)
    yield F.nll_loss(log_p.flatten(0, 1), y.flatten(), reduction="none").view(y.shape).sum(1)


def batches(source: TaskSource, samples: int | None, size: int | None = None) -> Iterator[Episodes]:
    """``samples`` episodes of ``source``, or all that there are (500 where they are without number)."""
    if source.count is not None and (samples is None or samples >= source.count):
        source, samples = source.in_order(), source.count
    count = samples or EPISODES
    for ids in torch.arange(count).split(size or max(1, min(BATCH, count // BATCHES))):
        yield source.sample(ids)


# Every episode's own gradient -------------------------------------------------------------------------------------------------


def episode_gradients(
    algorithm: Algorithm,
    source: TaskSource,
    samples: int | None,
    power: Callable[[Tensor], Tensor],
    losses: Callable[[Tensor, Tensor], Iterator[Tensor]],
) -> Weights:
    """Mean over episodes of ``power`` of the gradient of an episode's loss, by the names of the learner's weights.

    One backward pass gives those of many episodes where the learner is `feedforward` and tasks share the weights of linear and
    convolutional layers and of the network; any other learner takes a pass an episode.

    Args:
        algorithm: the learner, left as it is.
        source: of the episodes.
        samples: how many; see `batches`.
        power: `torch.square` or `torch.abs`, which take products apart.
        losses: outputs (T, n, outputs) and labels → losses (T,), one or several, whose powers are added.
    """
    total = {name: torch.zeros_like(w) for name, w in algorithm.named_parameters() if w.requires_grad}
    count = 0
    with eval_mode(algorithm):
        with recorded() as calls:
            algorithm.outputs_and_targets(source.sample(torch.arange(1)))
        copied = _not_seen(algorithm, calls) if algorithm.feedforward else None
        if copied is None:
            return _one_by_one(algorithm, batches(source, samples), power, losses)
        numbers = sum(w.numel() for w in copied.values())
        for episodes in batches(source, samples, max(1, min(BATCH, COPIED // max(numbers, 1)))):
            copies = {name: w.detach().expand(len(episodes), *w.shape).clone().requires_grad_() for name, w in copied.items()}
            with replaced(algorithm.network, copies), recorded() as calls:
                answers = algorithm.outputs_and_targets(episodes)
            for loss in losses(*answers):
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
    for one in (one for episodes in batches for one in episodes.split(1)):
        for loss in losses(*algorithm.outputs_and_targets(one)):
            gradients = torch.autograd.grad(loss.sum(), weights, retain_graph=True, allow_unused=True)
            for value, gradient in zip(total.values(), gradients, strict=True):
                if gradient is not None:
                    value += power(gradient)
        count += 1
    return {name: value / count for name, value in total.items()}


def _not_seen(algorithm: Algorithm, calls: list[Call]) -> Weights | None:
    """The weights of the learner's network, by their names in it, that no recorded layer holds; None where others are left."""
    seen = {id(w) for call in calls for w in (call.weight, call.bias) if w is not None}
    of_network = {id(w): name for name, w in algorithm.network.weights().items()}
    left: Weights = {}
    for w in algorithm.parameters():
        if id(w) in seen or not w.requires_grad:
            continue
        if id(w) not in of_network:
            return None
        left[of_network[id(w)]] = w
    return left


def _add(
    total: Weights,
    algorithm: Algorithm,
    calls: list[Call],
    copies: Weights,
    losses: Tensor,
    power: Callable[[Tensor], Tensor],
) -> None:
    """Add the ``power`` of every episode's gradient to ``total``."""
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
    if a.shape[1] == 1:  # the power of a product is that of its factors: no episode's gradient is ever written out
        return power(g[:, 0]).T @ power(a[:, 0])
    size = max(1, COPIED // (a.shape[2] * g.shape[2]))
    parts = zip(a.split(size), g.split(size), strict=True)
    return torch.stack([power(some_g.mT @ some_a).sum(0) for some_a, some_g in parts]).sum(0)

"""Baselines for scripts/benchmark.py: the same work with `higher`, with TorchOpt, and as a plain loop over tasks.

Learners use the parameters of a metarun network, so all gradients go to the same tensors and can be compared.
"""

import random
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from metarun.episodes import Episodes
from metarun.model.conv4 import Conv4
from metarun.model.mlp import MLP
from metarun.model.network import Network, Weights

Fill = Callable[[Episodes], object]
"""Adds the gradients of the tasks' mean loss to those of the network's parameters."""


def loss(out: Tensor, y: Tensor) -> Tensor:
    return F.mse_loss(out, y) if out.shape == y.shape else F.cross_entropy(out, y)


def each(episodes: Episodes) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Support inputs and labels, query inputs and labels of one task after another."""
    support, query = episodes.support, episodes.query
    return zip(support.x, support.y, query.x, query.y, strict=True)


def accumulate(weights: Iterator[nn.Parameter], gradients: tuple[Tensor, ...]) -> None:
    for w, gradient in zip(weights, gradients, strict=True):
        w.grad = gradient if w.grad is None else w.grad + gradient


# With libraries ---------------------------------------------------------------------------------------------------------------


def stride_of(network: Network) -> int:
    """Stride of a `conv4`'s convolutions: 2 if they halve the size, 1 if pooling does."""
    return 2 if isinstance(network, Conv4) and network.halve == "stride" else 1


def module(network: Network) -> nn.Module:
    """The layers of an `mlp` or a `conv4` as an ordinary module for the inputs of one task."""
    layers = dict(network.named_children())
    if "layers" in layers:
        linear = [part for layer in layers["layers"].children() for part in (layer, nn.ReLU())]
        return nn.Sequential(nn.Flatten(), *linear[:-1])
    stride = stride_of(network)
    blocks: list[nn.Module] = []
    for w, norm in zip(layers["convs"].parameters(), layers["norms"].children(), strict=True):
        conv = nn.Conv2d(w.shape[1], w.shape[0], 3, stride, padding=1, bias=False)
        conv.weight = w
        blocks += [conv, norm, nn.ReLU(), *([nn.MaxPool2d(2)] if stride == 1 else [])]
    return nn.Sequential(*blocks, nn.Flatten(), layers["head"])


def higher_maml(network: Network, rate: float, steps: int, first_order: bool) -> Fill:
    import higher

    net = module(network)
    inner = torch.optim.SGD(net.parameters(), lr=rate)

    def fill(episodes: Episodes) -> None:
        for support_x, support_y, query_x, query_y in each(episodes):
            with higher.innerloop_ctx(net, inner, copy_initial_weights=False, track_higher_grads=not first_order) as (fast, step):
                for _ in range(steps):
                    step.step(loss(fast(support_x), support_y))
                outer = loss(fast(query_x), query_y) / len(episodes)
                if first_order:  # the adapted weights are detached from the initial ones
                    accumulate(net.parameters(), torch.autograd.grad(outer, list(fast.parameters())))
                else:
                    outer.backward()

    return fill


def torchopt_maml(network: Network, rate: float, steps: int) -> Fill:
    import torchopt

    net = module(network)
    inner = torchopt.MetaSGD(net, lr=rate)

    def fill(episodes: Episodes) -> None:
        slow = torchopt.extract_state_dict(net, by="reference")
        state = torchopt.extract_state_dict(inner, by="reference")
        for support_x, support_y, query_x, query_y in each(episodes):
            for _ in range(steps):
                inner.step(loss(net(support_x), support_y))
            (loss(net(query_x), query_y) / len(episodes)).backward()
            torchopt.recover_state_dict(net, slow)
            torchopt.recover_state_dict(inner, state)

    return fill


# As a loop over tasks, the weights in a dictionary ----------------------------------------------------------------------------


def forward(network: Network, w: Weights, x: Tensor) -> Tensor:
    """An `mlp` or a `conv4` with the weights ``w`` on the inputs of one task."""
    if isinstance(network, MLP):
        for i in range(network.hidden):
            x = F.relu(F.linear(x, w[f"layers.{i}.weight"], w[f"layers.{i}.bias"]))
        return F.linear(x, w[f"layers.{network.hidden}.weight"], w[f"layers.{network.hidden}.bias"])
    stride = stride_of(network)
    for i in range(4):
        x = F.conv2d(x, w[f"convs.{i}.weight"], stride=stride, padding=1)
        x = F.relu(F.batch_norm(x, None, None, w[f"norms.{i}.weight"], w[f"norms.{i}.bias"], training=True))
        x = x if stride == 2 else F.max_pool2d(x, 2)
    x = x.flatten(1)
    return F.linear(x, w["head.weight"], w["head.bias"]) if "head.weight" in w else x


def step(network: Network, w: Weights, x: Tensor, y: Tensor, rate: float, *, create_graph: bool = False) -> Weights:
    gradients = torch.autograd.grad(loss(forward(network, w, x), y), list(w.values()), create_graph=create_graph)
    return {name: value - rate * gradient for (name, value), gradient in zip(w.items(), gradients, strict=True)}


def loop_maml(network: Network, rate: float, steps: int, first_order: bool) -> Fill:
    def fill(episodes: Episodes) -> None:
        for support_x, support_y, query_x, query_y in each(episodes):
            fast = network.weights()
            for _ in range(steps):
                fast = step(network, fast, support_x, support_y, rate, create_graph=not first_order)
            (loss(forward(network, fast, query_x), query_y) / len(episodes)).backward()

    return fill


def adapted(network: Network, x: Tensor, y: Tensor, rate: float, steps: int) -> Iterator[Weights]:
    """The weights after 0, 1, … ``steps`` steps of ordinary training."""
    fast = network.weights()
    yield fast
    for _ in range(steps):
        fast = {name: w.detach().requires_grad_() for name, w in fast.items()}
        with torch.enable_grad():
            fast = step(network, fast, x, y, rate)
        yield fast


def loop_reptile(network: Network, rate: float, steps: int) -> Fill:
    def fill(episodes: Episodes) -> None:
        for support_x, support_y, _, _ in each(episodes):
            *_, end = adapted(network, support_x, support_y, rate, steps)
            with torch.no_grad():
                away = tuple((w - end[name]) / len(episodes) for name, w in network.weights().items())
            accumulate(network.parameters(), away)

    return fill


def loop_protonet(network: Network) -> Fill:
    def fill(episodes: Episodes) -> None:
        for support_x, _, query_x, query_y in each(episodes):
            embedded = forward(network, network.weights(), torch.cat([support_x, query_x]))
            support, query = embedded.split([len(support_x), len(query_x)])
            means = support.view(episodes.support.ways or 1, -1, support.shape[1]).mean(1)  # examples are ordered by class
            distances = (query.unsqueeze(1) - means).square().sum(2)
            (F.cross_entropy(-distances, query_y) / len(episodes)).backward()

    return fill


@torch.no_grad()
def loop_evaluation(network: Network, episodes: Episodes, rate: float, steps: int) -> Tensor:
    """The squared error or the accuracy of every task after 0, 1, … ``steps`` steps, (steps + 1, T)."""
    found = []
    for support_x, support_y, query_x, query_y in each(episodes):
        scores = []
        for w in adapted(network, support_x, support_y, rate, steps):
            out = forward(network, w, query_x)
            scores.append(loss(out, query_y) if out.shape == query_y.shape else (out.argmax(1) == query_y).float().mean())
        found.append(torch.stack(scores))
    return torch.stack(found, 1)


def loop_fisher(network: Network, episodes: Episodes, *, sampled: bool) -> Weights:
    """Mean over examples of the squared gradient of −log p of their own labels, or of ``sampled`` ones."""
    weights = network.weights()
    total = {name: torch.zeros_like(w) for name, w in weights.items()}
    for _, _, x, y in each(episodes):
        out = forward(network, weights, x)
        y = torch.multinomial(out.detach().softmax(1), 1)[:, 0] if sampled else y
        gradients = torch.autograd.grad(F.cross_entropy(out, y), list(weights.values()))
        for value, gradient in zip(total.values(), gradients, strict=True):
            value += gradient.square()
    return {name: value / len(episodes) for name, value in total.items()}


# Tasks ------------------------------------------------------------------------------------------------------------------------


def loop_waves(tasks: int, points: int, device: torch.device) -> list[Tensor]:
    """Inputs and targets (T, n, 1) of sine waves."""
    x, y = np.zeros((2, tasks, points, 1), np.float32)
    for task in range(tasks):
        amplitude, phase = np.random.uniform(0.1, 5.0), np.random.uniform(0, np.pi)
        x[task] = np.random.uniform(-5, 5, (points, 1))
        y[task] = amplitude * np.sin(x[task] - phase)
    return [torch.from_numpy(values).to(device) for values in (x, y)]


def loop_images(images: Tensor, classes: int, tasks: int, ways: int, shots: int, queries: int) -> list[Tensor]:
    """Support and query images (T, n, C, H, W) from ``images``, which are ordered by class."""
    size, sets = len(images) // classes, []
    for _ in range(tasks):
        chosen = [
            [label * size + i for i in random.sample(range(size), shots + queries)] for label in random.sample(range(classes), ways)
        ]
        parts = [[i for of in chosen for i in of[:shots]], [i for of in chosen for i in of[shots:]]]
        sets.append([torch.stack([images[i].float() / 255 for i in part]) for part in parts])
    return [torch.stack(part) for part in zip(*sets, strict=True)]

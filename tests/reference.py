"""Slow, plain twins of what metarun vectorises: one task at a time, ordinary modules and loops, torch.autograd.grad.

Written from the papers' equations and sharing no code with the package.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from metarun.episodes import Episodes


def plain_mlp(weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """One task: (n, d) → (n, outputs)."""
    layers = len(weights) // 2
    for i in range(layers):
        x = x @ weights[f"layers.{i}.weight"].T + weights[f"layers.{i}.bias"]
        if i < layers - 1:
            x = torch.relu(x)
    return x


def batch_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)


def plain_conv4(
    weights: dict[str, Tensor],
    x: Tensor,
    moments: list[tuple[Tensor, Tensor]] | None = None,
    *,
    strided: bool = False,
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """One task: (n, C, H, W) → (n, outputs) and each layer's moments; normalised by given moments or by its own."""
    seen = []
    for i in range(4):
        x = F.conv2d(x, weights[f"convs.{i}.weight"], stride=2 if strided else 1, padding=1)
        own = batch_moments(x)
        seen.append(own)
        mean, var = own if moments is None else moments[i]
        x = (x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + 1e-5)
        if f"norms.{i}.weight" in weights:
            x = x * weights[f"norms.{i}.weight"][:, None, None]
        x = torch.relu(x + weights[f"norms.{i}.bias"][:, None, None])
        if not strided:
            x = F.max_pool2d(x, 2)
    x = x.mean((2, 3)) if strided else x.flatten(1)
    if "head.weight" in weights:
        x = x @ weights["head.weight"].T + weights["head.bias"]
    return x, seen


def plain_loss(out: Tensor, y: Tensor) -> Tensor:
    return ((out - y) ** 2).mean() if y.is_floating_point() else F.cross_entropy(out, y)


def maml_loss(
    forward,
    weights: dict[str, Tensor],
    episodes: Episodes,
    *,
    rate: float,
    steps: int,
    first_order: bool = False,
    frozen: frozenset[str] = frozenset(),
    support_moments: bool = False,
) -> Tensor:
    """Mean query loss of T tasks, one after another; ``forward(weights, x, moments) -> (out, moments)``."""
    total = torch.zeros((), dtype=episodes.query.x.dtype)
    for t in range(len(episodes)):
        fast = dict(weights)
        for _ in range(steps):
            loss = plain_loss(forward(fast, episodes.support.x[t], None)[0], episodes.support.y[t])
            names = [name for name in fast if name not in frozen]
            gradients = torch.autograd.grad(loss, [fast[n] for n in names], create_graph=True)
            for name, gradient in zip(names, gradients, strict=True):
                fast[name] = fast[name] - rate * (gradient.detach() if first_order else gradient)
        moments = forward(fast, episodes.support.x[t], None)[1] if support_moments else None
        total = total + plain_loss(forward(fast, episodes.query.x[t], moments)[0], episodes.query.y[t])
    return total / len(episodes)

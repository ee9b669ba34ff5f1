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
    film: dict[int, tuple[Tensor, Tensor]] | None = None,
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """One task: (n, C, H, W) → (n, outputs) and each layer's moments; normalised by given moments or by its own.

    ``film``: scale and shift of a block before its ReLU and after its pooling.
    """
    seen = []
    for i in range(4):
        x = F.conv2d(x, weights[f"convs.{i}.weight"], stride=2 if strided else 1, padding=1)
        own = batch_moments(x)
        seen.append(own)
        mean, var = own if moments is None else moments[i]
        x = (x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + 1e-5)
        if f"norms.{i}.weight" in weights:
            x = x * weights[f"norms.{i}.weight"][:, None, None]
        x = x + weights[f"norms.{i}.bias"][:, None, None]
        if film and i in film:
            x = x if strided else F.max_pool2d(x, 2)
            x = torch.relu(x * film[i][0][:, None, None] + film[i][1][:, None, None])
        else:
            x = torch.relu(x)
            x = x if strided else F.max_pool2d(x, 2)
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


def descend(loss, weights: dict[str, Tensor], rates, steps: int, *, first_order: bool = False) -> list[dict[str, Tensor]]:
    """Weights of one task after 0 … steps steps; ``loss(step, weights)``, ``rates(step, name)``."""
    path = [dict(weights)]
    for step in range(steps):
        fast = path[-1]
        gradients = torch.autograd.grad(loss(step, fast), list(fast.values()), create_graph=True)
        gradients = [g.detach() if first_order else g for g in gradients]
        path.append({name: w - rates(step, name) * g for (name, w), g in zip(fast.items(), gradients, strict=True)})
    return path


def gradients_of(algorithm, episodes: Episodes) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses and every parameter's gradient, by the vectorised code."""
    algorithm.zero_grad()
    losses = algorithm.backward(episodes)
    return losses, {name: w.grad.clone() for name, w in algorithm.named_parameters() if w.grad is not None}


def copies(algorithm) -> dict[str, Tensor]:
    """Every parameter as a leaf of its own."""
    return {name: w.detach().clone().requires_grad_() for name, w in algorithm.named_parameters()}


def part(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Those under ``prefix``, without it."""
    return {name.removeprefix(prefix): w for name, w in weights.items() if name.startswith(prefix)}


def assert_gradients(algorithm, episodes: Episodes, loss, weights: dict[str, Tensor]) -> None:
    """The vectorised gradients are those of ``loss``, a function of the leaves ``weights``."""
    losses, found = gradients_of(algorithm, episodes)
    torch.testing.assert_close(losses.mean(), loss.detach(), rtol=1e-9, atol=1e-11)
    used = {name: w for name, w in weights.items() if name in found}
    expected = torch.autograd.grad(loss, list(used.values()))
    assert max(g.abs().max().item() for g in expected) > 1e-6
    for name, gradient in zip(used, expected, strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def lstm_cell(weights: dict[str, Tensor], x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """The equations of an LSTM cell, in torch's order of gates."""
    gates = x @ weights["weight_ih"].T + weights["bias_ih"] + hidden @ weights["weight_hh"].T + weights["bias_hh"]
    into, keep, new, out = gates.chunk(4, -1)
    cell = torch.sigmoid(keep) * cell + torch.sigmoid(into) * torch.tanh(new)
    return torch.sigmoid(out) * torch.tanh(cell), cell


def peak_saved_bytes(work) -> int:
    """The most bytes that the graphs made by ``work()`` kept at one time, a storage counted once."""
    live: dict[int, list[int]] = {}
    peak = 0

    class Kept:
        def __init__(self, tensor: Tensor) -> None:
            nonlocal peak
            self.tensor, storage = tensor, tensor.untyped_storage()
            self.at = storage.data_ptr()
            live.setdefault(self.at, []).append(storage.nbytes())
            peak = max(peak, sum(sizes[0] for sizes in live.values()))

        def __del__(self) -> None:
            live[self.at].pop()
            if not live[self.at]:
                del live[self.at]

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        work()
    return peak

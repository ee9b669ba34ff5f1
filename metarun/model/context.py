"""What a forward pass depends on besides its arguments: everything of the kind is here, and set for the length of a block.

- `recorded`: layers with shared weights write down their calls, from which the gradient of each task follows (`metarun.cl.fisher`).
- `replaced`: `Network.weights` gives other weights in the place of some, a copy for each task.
- `normalising`: batch norms deep inside a module of the user's own learn of the pass's `Norm`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from metarun.model.norm import Norm


class Call(NamedTuple):
    """One pass through a layer whose weights all tasks share."""

    x: Tensor
    """(T, n, d), or images (n, T, C, H, W)."""
    weight: Tensor
    bias: Tensor | None
    stride: int
    out: Tensor
    """(T, n, o), or images (n, T, O, H', W')."""

    def rows(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """What makes the weight's gradient in each task, for ``gradient`` of ``out``: inputs (T, m, i) and gradients (T, m, o).

        A convolution is linear in its patches, a row for each position in each image.
        """
        if self.x.dim() == 3:
            return self.x.detach(), gradient
        n, tasks = self.x.shape[:2]
        size = self.weight.shape[-1]
        patches = F.unfold(self.x.detach().flatten(0, 1), size, padding=size // 2, stride=self.stride)
        a, g = (
            v.view(n, tasks, v.shape[1], -1).permute(1, 0, 3, 2).flatten(1, 2) for v in (patches, gradient.flatten(0, 1).flatten(2))
        )
        return a, g


_recorders: list[list[Call]] = []
_replacements: list[tuple[nn.Module, dict[str, Tensor]]] = []
_norms: list[Norm] = []


@contextmanager
def recorded() -> Iterator[list[Call]]:
    """The calls of layers with shared weights, for the length of the block."""
    _recorders.append([])
    try:
        yield _recorders[-1]
    finally:
        _recorders.pop()


def record(call: Call) -> None:
    """Add ``call`` to the innermost `recorded`, if there is one."""
    if _recorders:
        _recorders[-1].append(call)


@contextmanager
def replaced(network: nn.Module, weights: dict[str, Tensor]) -> Iterator[None]:
    """``network`` gives these weights instead of its own of the same names, for the length of the block."""
    _replacements.append((network, weights))
    try:
        yield
    finally:
        _replacements.pop()


def replacements(network: nn.Module) -> dict[str, Tensor]:
    """The weights that `replaced` has given ``network``, by name; most often none."""
    return {name: w for of, weights in _replacements if of is network for name, w in weights.items()}


@contextmanager
def normalising(norm: Norm) -> Iterator[None]:
    """Batch norms inside a vectorised module use ``norm``, for the length of the block."""
    _norms.append(norm)
    try:
        yield
    finally:
        _norms.pop()


def current_norm() -> Norm:
    """The innermost `normalising`."""
    return _norms[-1]

"""Class means and distances in an embedding."""

from torch import Tensor

from metarun.episodes import Examples


def class_means(embedded: Tensor, of: Examples) -> Tensor:
    """Mean embedding of the examples of each class: (T, n, d) → (T, ways, d). Each class has an example."""
    members = of.one_hot(embedded.dtype)
    return members.mT @ embedded / members.sum(1).unsqueeze(-1)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(T, n, d) and (T, m, d) → (T, n, m), by the binomial formula, which needs no (T, n, m, d).

    It is taken about the mean of each task's ``b``: far from 0 the squares would round away the distances.
    """
    centre = b.detach().mean(1, keepdim=True)
    a, b = a - centre, b - centre
    return a.square().sum(-1, keepdim=True) - 2 * a @ b.mT + b.square().sum(-1).unsqueeze(1)

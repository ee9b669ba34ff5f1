"""Hand-made features of a task, which the literature calls meta-features: simple statistics of a support set (Vanschoren 2018)."""

import torch
from torch import Tensor

from metarun.episodes import Examples, TaskSpec, one_hot

OF_TARGETS, OF_CLASSES = 11, 6
"""How many there are."""


def meta_features(support: Examples) -> Tensor:
    """Features of T support sets, (T, 11) on regression, (T, 6) on classification; whatever the order of the examples.

    On regression: mean and standard deviation of the inputs; of the targets those, least, greatest and skewness; how targets go
    with the first, second and third power of the standardised mean input, and their mean absolute slope from neighbour to
    neighbour. On classification: mean and standard deviation of the inputs, spread within and between classes, its ratio, and the
    least distance between two class means. Of whatever size, each as sign(v) log(1 + |v|).
    """
    x = support.x.flatten(2)
    mean, std = x.mean((1, 2)), x.flatten(1).std(1, correction=0)
    made = [mean, std, *(_of_classes(x, support.y, support.ways) if support.ways else _of_targets(x, support.y))]
    values = torch.stack(made, 1)
    return values.sign() * values.abs().log1p()


def count(spec: TaskSpec) -> int:
    """How many features a task of this kind has."""
    return OF_CLASSES if spec.kind.classes else OF_TARGETS


def _of_targets(x: Tensor, y: Tensor) -> list[Tensor]:
    inputs, targets = x.mean(2), y.flatten(2).mean(2)
    standard = _standardised(inputs)
    skewness = _standardised(targets).pow(3).mean(1)
    powers = [(targets * standard.pow(k)).mean(1) for k in (1, 2, 3)]
    order = inputs.argsort(1)
    rise, run = targets.gather(1, order).diff(dim=1).abs().sum(1), inputs.amax(1) - inputs.amin(1)
    return [targets.mean(1), targets.std(1, correction=0), targets.amin(1), targets.amax(1), skewness, *powers, rise / (run + 1e-6)]


def _standardised(values: Tensor) -> Tensor:
    """(T, n) with mean 0 and standard deviation 1 along n."""
    return (values - values.mean(1, keepdim=True)) / (values.std(1, correction=0, keepdim=True) + 1e-6)


def _of_classes(x: Tensor, y: Tensor, ways: int) -> list[Tensor]:
    members = one_hot(y, ways, x.dtype)
    means = members.mT @ x / members.sum(1).unsqueeze(-1)
    within = (x - members @ means).square().mean((1, 2))
    between = (means - means.mean(1, keepdim=True)).square().mean((1, 2))
    distances = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist")
    apart = distances + torch.eye(ways, device=x.device, dtype=x.dtype) * torch.finfo(x.dtype).max
    return [within, between, within / (between + 1e-6), apart.amin((1, 2))]

"""Meta-features of a whole task distribution: what `results.json` tells of it, so that a search can find similar ones.

Statistics and landmarks as in meta-learning for AutoML (Vanschoren 2018, sections 3.1 and 3.2; Pfahringer et al. 2000).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from metarun.algo.meta_features import meta_features
from metarun.data.source import Data, Stage
from metarun.episodes import Episodes, Examples

TASKS, VALUES, SIDE, RIDGE = 64, 2**19, 8, 1.0
"""Most tasks, and input numbers, that are looked at; the side that images are averaged to; the linear learner's penalty."""

TARGETS = (
    *("input_mean", "input_std", "target_mean", "target_std", "target_min", "target_max", "target_skewness"),
    *("slope", "curvature", "cubic", "roughness"),
)
CLASSES = ("input_mean", "input_std", "within_class", "between_class", "class_overlap", "closest_classes")
"""Names of the columns of `meta_features`."""


def task_features(data: Data, stages: list[Stage]) -> dict[str, float]:
    """Features of the training tasks of ``data`` by name; which names there are depends on the kind alone.

    What a task looks like: `kind` (0 targets, 1 classes), `inputs` (log10 of their dimensions), `outputs`, `ways`,
    `shots`, `queries`, `stages`. What is in it, the mean over tasks of `meta_features`. How hard it is, landmarks: the query error
    of the nearest support example, `nearest_error`, and of ridge regression, `linear_error`: the error rate on classification,
    on regression the squared error over that of the support targets' mean, cut at 10.
    """
    episodes = [_flat(_support_sets(stage.train.sample(torch.arange(count)))) for stage, count in _places(stages, data)]
    values = torch.cat([meta_features(one.support) for one in episodes]).double().mean(0)
    landmarks = torch.cat([_landmarks(one) for one in episodes]).double()
    classes, shape = data.train.ways, data.train
    errors = landmarks[:, :2].mean(0) / landmarks[:, 2].mean()
    names = CLASSES if data.spec.kind.classes else TARGETS
    found = {
        "kind": float(data.spec.kind.classes),
        "inputs": math.log10(math.prod(data.spec.input_shape)),
        "outputs": float(data.spec.outputs),
        "ways": float(classes or 0),
        "shots": float(shape.shots),
        "queries": float(shape.queries),
        "stages": float(len(stages)),
        **dict(zip(names, values.tolist(), strict=True)),
        **dict(zip(("nearest_error", "linear_error"), errors.clamp(max=10.0).tolist(), strict=True)),
    }
    return {name: round(value, 6) for name, value in found.items()}


def _places(stages: list[Stage], data: Data) -> list[tuple[Stage, int]]:
    """Stages along the stream, and how many tasks of each are looked at."""
    one = stages[0].train.sample(torch.arange(1))
    values = max(1, one.support.x.numel() + one.query.x.numel())
    most = TASKS * 8 if data.spec.examples else TASKS  # single examples make few tasks
    count = max(4, min(most, VALUES // values))
    taken = stages[:: max(1, len(stages) // 4)]
    return [(stage, max(2, count // len(taken))) for stage in taken]


def _support_sets(episodes: Episodes) -> Episodes:
    """Single examples as one task of the classes met, half of them its support set."""
    if episodes.support.x.shape[1]:
        return episodes
    x, y, half = episodes.query.x[:, 0], episodes.query.y[:, 0], len(episodes) // 2
    classes, labels = y[:half].unique(return_inverse=True)
    known = torch.isin(y[half:], classes)
    support = Examples(x[None, :half], labels[None], len(classes))
    return Episodes(support, Examples(x[half:][known][None], torch.searchsorted(classes, y[half:][known])[None], len(classes)))


def _flat(episodes: Episodes) -> Episodes:
    """Inputs as vectors, images averaged to `SIDE` × `SIDE` first."""

    def flat(examples: Examples) -> Examples:
        x = examples.x
        if x.dim() == 5 and x.shape[-1] > SIDE:
            x = F.adaptive_avg_pool2d(x.flatten(0, 1), SIDE).unflatten(0, x.shape[:2])
        return Examples(x.flatten(2), examples.y, examples.ways)

    return Episodes(flat(episodes.support), flat(episodes.query))


def _landmarks(episodes: Episodes) -> Tensor:
    """Errors (T, 3) of the nearest example, of ridge regression and of what they are measured in."""
    support, query = episodes.support, episodes.query
    # Without the binomial formula, whose squares round away the distances between inputs that are far from 0.
    nearest = torch.cdist(query.x, support.x, compute_mode="donot_use_mm_for_euclid_dist").argmin(-1)
    mean, std = support.x.mean(1, keepdim=True), support.x.std((1, 2), keepdim=True) + 1e-6
    inputs, tests = ((x - mean) / std for x in (support.x, query.x))
    targets = support.targets(inputs.dtype).to(inputs.dtype)
    level = targets.mean(1, keepdim=True)
    # In the space of examples: there are fewer of them than inputs have dimensions.
    gram = inputs @ inputs.mT + RIDGE * torch.eye(inputs.shape[1], dtype=inputs.dtype, device=inputs.device)
    linear = tests @ (inputs.mT @ torch.linalg.solve(gram, targets - level)) + level
    if support.ways:
        wrong = [support.y.gather(1, nearest) != query.y, linear.argmax(-1) != query.y]
        return torch.stack([*(of.double().mean(1) for of in wrong), torch.ones(len(episodes), device=inputs.device)], 1)
    closest = support.y.gather(1, nearest.unsqueeze(-1).expand(-1, -1, support.y.shape[-1]))
    return torch.stack([(of - query.y).square().mean((1, 2)) for of in (closest, linear, level)], 1)

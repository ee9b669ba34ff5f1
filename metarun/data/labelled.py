"""A data set from labelled examples in any order; classes, splits, stages and standardised features follow from the labels."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from metarun.config import ConfigError
from metarun.data.classes import ClassData, Classes, random_split, stage_splits
from metarun.data.source import task_shapes


class LabelledData(ClassData):
    """Few-shot classification on labelled examples in any order. A custom data set need only supply ``x`` and ``y``.

    Args:
        name: of the data set.
        seed: of the tasks.
        x: the examples, (n, *input_shape).
        y: their labels (n,), whole numbers.
        split: shares of the classes for training, validation and test; classes are assigned at random.
        split_seed: of this assignment.
        standardise: give each feature mean 0 and standard deviation 1 over the training classes.
        ways, shots, queries: classes of a test task, support examples and queries per class.
        train_ways, train_shots, train_queries: the same for training tasks; null: as for test tasks.
        stages: number of stages among which the classes are divided at random, in each a fifth for validation and a fifth for
            the test; null: one stage, divided by ``split``.

    Raises:
        ConfigError: the numbers of examples and labels differ, or a value is not finite.
        RangeError: a split is too small for its tasks.
    """

    def __init__(
        self,
        name: str,
        seed: int,
        x: Tensor,
        y: Tensor,
        *,
        split: tuple[float, float, float] = (0.6, 0.2, 0.2),
        split_seed: int = 0,
        standardise: bool = False,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        train_ways: int | None = None,
        train_shots: int | None = None,
        train_queries: int | None = None,
        stages: int | None = None,
    ) -> None:
        if len(x) != len(y):
            raise ConfigError(f"data={name}: expected one label per example, found {len(x)} examples and {len(y)} labels")
        if not x.isfinite().all():
            row = int((~x.isfinite()).flatten(1).any(1).nonzero()[0])
            raise ConfigError(f"data={name}: expected finite values, found another in example {row}")
        labels, sizes = y.unique(return_counts=True)
        classes, count = Classes.of_sizes(sizes.tolist()), len(labels)
        parts = {name: random_split(count, split, split_seed)} if stages is None else stage_splits(count, stages, seed)
        x = x[y.argsort(stable=True)]
        digest = hashlib.blake2b(x.contiguous().numpy().tobytes(), digest_size=8).hexdigest()
        if standardise:
            numbers = np.concatenate([of["train"] for of in parts.values()])
            x = standardised(x, classes.some(numbers))
        shapes = task_shapes(ways, shots, queries, train_ways, train_shots, train_queries)
        # Example numbers hold within this data only: other contents under the same name are a different collection.
        super().__init__(name, seed, x, classes, parts, *shapes, collection=f"{name} {digest}")


def standardised(x: Tensor, classes: Classes) -> Tensor:
    """Examples (n, …) whose features have mean 0 and standard deviation 1 over ``classes``; constant features become 0."""
    spans = zip(classes.start.tolist(), classes.size.tolist(), strict=True)
    members = torch.cat([x[start : start + size] for start, size in spans])
    std, mean = torch.std_mean(members, 0, correction=0)
    return torch.where(std > 0, (x - mean) / std.where(std > 0, torch.ones_like(std)), 0.0)

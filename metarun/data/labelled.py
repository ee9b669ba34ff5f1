"""Labelled examples in any order as a data set: classes, splits, stages and standardised features follow from the labels."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from metarun.config import ConfigError, require
from metarun.data.classes import ClassData, Classes, Numbers, stage_splits
from metarun.data.source import Split, task_shapes
from metarun.rng import derive


class LabelledData(ClassData):
    """Labelled examples in any order, which is all that a data set of one's own has to bring.

    Args:
        name: of the data set.
        seed: of the tasks.
        x: the examples, (n, *input_shape).
        y: their labels (n,), whole numbers.
        split: shares of the classes for training, validation and test, which are divided at random.
        split_seed: of this division.
        standardise: subtract from each feature its mean over the training classes, and divide it by its standard deviation there.
        ways, shots, queries: classes of a test task, support examples and queries of each.
        train_ways, train_shots, train_queries: the same in training; null: as in the test.
        stages: divide the classes at random among this many stages, in each a fifth for validation and a fifth for the test;
            null: one stage, divided by ``split``.

    Raises:
        ConfigError: examples and labels do not belong together, or a number is not finite.
        RangeError: a split cannot fill its tasks.
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
            raise ConfigError(f"data={name}: expected a label for each example, found {len(x)} examples and {len(y)} labels")
        if not x.isfinite().all():
            row = int((~x.isfinite()).flatten(1).any(1).nonzero()[0])
            raise ConfigError(f"data={name}: expected finite numbers, found another in example {row}")
        labels, sizes = y.unique(return_counts=True)
        classes, count = Classes.of_sizes(sizes.tolist()), len(labels)
        parts = {name: random_split(count, split, split_seed)} if stages is None else stage_splits(count, stages, seed)
        x = x[y.argsort(stable=True)]
        digest = hashlib.blake2b(x.contiguous().numpy().tobytes(), digest_size=8).hexdigest()
        if standardise:
            numbers = np.concatenate([of["train"] for of in parts.values()])
            x = standardised(x, classes.some(numbers))
        shapes = task_shapes(ways, shots, queries, train_ways, train_shots, train_queries)
        # Examples have numbers within these data alone: other contents under the same name are another collection.
        super().__init__(name, seed, x, classes, parts, *shapes, collection=f"{name} {digest}")


def standardised(x: Tensor, classes: Classes) -> Tensor:
    """Examples (n, …) whose features have mean 0 and standard deviation 1 over ``classes``; constant features become 0."""
    spans = zip(classes.start.tolist(), classes.size.tolist(), strict=True)
    known = torch.cat([x[start : start + size] for start, size in spans])
    std, mean = torch.std_mean(known, 0, correction=0)
    return torch.where(std > 0, (x - mean) / std.where(std > 0, torch.ones_like(std)), 0.0)


def random_split(classes: int, shares: tuple[float, float, float], seed: int) -> dict[Split, Numbers]:
    """Numbers of the classes of each split, at random, each share rounded to whole classes.

    Raises:
        RangeError: the shares are not three parts of 1.
    """
    require(min(shares) >= 0 and abs(sum(shares) - 1) < 1e-6, "split", list(shares), "three shares that sum to 1")
    order = np.random.default_rng(derive(seed, "class split")).permutation(classes)
    ends = [round(shares[0] * classes), round((shares[0] + shares[1]) * classes)]
    return dict(zip(("train", "val", "test"), np.split(order, ends), strict=True))

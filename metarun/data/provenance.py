"""Identifies the tasks of a test and the training images among them, on which comparisons between runs depend."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarun.data.source import Data, Stage, TaskSource

FIRST = 50
"""Number of test tasks of each stage in a digest. A task is a function of the source's key and its number, so sources that agree
on these tasks agree on all."""

Intervals = list[tuple[int, int]]
"""Images as half-open intervals [start, stop) of their indices."""
Images = Mapping[str, Sequence[Sequence[int]]]
"""Such intervals by collection, also as loaded from JSON."""


class Overlap(NamedTuple):
    """Number of test images in the training set, and of test classes with such images, each with the total number."""

    images: int
    of_images: int
    classes: int
    of_classes: int

    def __str__(self) -> str:
        """`263 of the 423 test classes (5,260 of 8,460 images) were in the run's training set`."""
        return (
            f"{self.classes:,} of the {self.of_classes:,} test classes"
            f" ({self.images:,} of {self.of_images:,} images) were in the run's training set"
        )


def record(data: Data, stages: Sequence[Stage], tasks: int, trained_on: Images | None = None) -> dict[str, Any]:
    """The `tested` record of results.json.

    Args:
        data: the data set.
        stages: all of its stages, in the order of ``data``.
        tasks: number of test tasks per stage.
        trained_on: the training images; None: those of ``data``.

    Returns:
        digest: of the first `FIRST` test tasks of every stage, in the order of ``data``. Equal digests mean equal test tasks, on
            any device.
        classes: number of distinct classes in all test tasks; None for regression.
        train: the training images, by collection, as intervals of their indices; empty if tasks are generated.
        overlap: see `Overlap`; None if images have no indices.
    """
    sources = [stage.test for stage in stages]
    classes = [source.classes(torch.arange(min(tasks, source.count or tasks))) for source in sources]
    train: Images = merged(data.members("train")) if trained_on is None else trained_on
    return {
        "digest": digest(sources),
        "classes": len(set().union(*(names for names in classes if names is not None))) if classes[0] is not None else None,
        "train": {name: [list(interval) for interval in intervals] for name, intervals in train.items()},
        "overlap": overlap(train, data.members("test"))._asdict() if train else None,
    }


def digest(sources: Iterable[TaskSource]) -> str:
    """32 hexadecimal digits that identify the first `FIRST` tasks of each of the ``sources``."""
    content = hashlib.blake2b(digest_size=16)
    for source in sources:
        _add(content.update, source.content(torch.arange(min(FIRST, source.count or FIRST))))
    return content.hexdigest()


def _add(update: Callable[[bytes], None], value: object) -> None:
    """Feed a value to a hash, type and length first, so that different values never feed the same bytes."""
    if isinstance(value, Tensor | np.ndarray):
        array = np.ascontiguousarray(value.detach().cpu().numpy() if isinstance(value, Tensor) else value)
        update(f"array {array.dtype.str} {array.shape} ".encode())
        update(array.tobytes())
    elif isinstance(value, partial):
        _add(update, ("partial", value.func, value.args, value.keywords))
    elif isinstance(value, Mapping):
        _add(update, [part for key in sorted(value) for part in (key, value[key])])
    elif isinstance(value, Sequence) and not isinstance(value, str):
        update(f"sequence {len(value)} ".encode())
        for part in value:
            _add(update, part)
    elif callable(value):
        update(f"function {getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)} ".encode())
    else:
        text = repr(value)
        update(f"{type(value).__name__} {len(text)} {text} ".encode())


def merged(members: Mapping[str, Intervals]) -> dict[str, Intervals]:
    """The same images in the fewest possible intervals, by collection."""
    result: dict[str, Intervals] = {}
    for name, intervals in members.items():
        joined: Intervals = []
        for start, stop in sorted(intervals):
            if joined and start <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
            else:
                joined.append((start, stop))
        result[name] = joined
    return result


def overlap(train: Images, test: Mapping[str, Intervals]) -> Overlap:
    """Number of images of ``test``, with one interval per class, that are in ``train``, collection by collection."""
    images = of_images = classes = of_classes = 0
    for name, intervals in test.items():
        distinct = sorted(set(intervals))
        seen = np.zeros(max((stop for _, stop in distinct), default=0), bool)
        for start, stop in train.get(name, ()):
            seen[start:stop] = True
        shared = [int(seen[start:stop].sum()) for start, stop in distinct]
        images, of_images = images + sum(shared), of_images + sum(stop - start for start, stop in distinct)
        classes, of_classes = classes + sum(map(bool, shared)), of_classes + len(distinct)
    return Overlap(images, of_images, classes, of_classes)

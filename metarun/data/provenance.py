"""Which tasks a test is of, and which of their images a learner was trained on: what comparisons between runs rest on."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from metarun.data.source import Data, Stage, TaskSource

FIRST = 50
"""Test tasks of each stage in a digest. Task i is a function of a source's key and i: sources that agree on these agree on all."""

Runs = list[tuple[int, int]]
"""Images as half-open intervals [start, stop) of their numbers."""
Images = Mapping[str, Sequence[Sequence[int]]]
"""The same by collection, also as JSON has them."""


class Overlap(NamedTuple):
    """Images of a test that are in the training set, and classes of the test with such images; each with the number in all."""

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
        data: what the stages are of.
        stages: all of them, in the order of ``data``.
        tasks: test tasks of each stage.
        trained_on: the training images; None: those of ``data``.

    Returns:
        digest: of the first `FIRST` test tasks of every stage, in the order of ``data``. Equal digests mean equal test tasks, on
            any device.
        classes: distinct classes in all test tasks; None for regression.
        train: the training images, by collection, as intervals of their numbers; empty where tasks are generated.
        overlap: see `Overlap`; None where images have no numbers.
    """
    sources = [stage.test for stage in stages]
    classes = [source.classes(torch.arange(min(tasks, source.count or tasks))) for source in sources]
    train: Images = merged(data.members("train")) if trained_on is None else trained_on
    return {
        "digest": digest(sources),
        "classes": len(set().union(*(some for some in classes if some is not None))) if classes[0] is not None else None,
        "train": {name: [list(run) for run in runs] for name, runs in train.items()},
        "overlap": overlap(train, data.members("test"))._asdict() if train else None,
    }


def digest(sources: Iterable[TaskSource]) -> str:
    """32 hexadecimal digits that name the first `FIRST` tasks of each of the ``sources``."""
    content = hashlib.blake2b(digest_size=16)
    for source in sources:
        _add(content.update, source.content(torch.arange(min(FIRST, source.count or FIRST))))
    return content.hexdigest()


def _add(update: Callable[[bytes], None], value: object) -> None:
    """Feed a value to a hash: its type and length first, so that no two values feed the same bytes."""
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


def merged(members: Mapping[str, Runs]) -> dict[str, Runs]:
    """The same images in as few intervals as there can be, by collection."""
    found: dict[str, Runs] = {}
    for name, runs in members.items():
        joined: Runs = []
        for start, stop in sorted(runs):
            if joined and start <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
            else:
                joined.append((start, stop))
        found[name] = joined
    return found


def overlap(train: Images, test: Mapping[str, Runs]) -> Overlap:
    """How many images of the ``test``, each class an interval, are in ``train``. Only images of one collection are compared."""
    images = of_images = classes = of_classes = 0
    for name, runs in test.items():
        distinct = sorted(set(runs))
        seen = np.zeros(max((stop for _, stop in distinct), default=0), bool)
        for start, stop in train.get(name, ()):
            seen[start:stop] = True
        shared = [int(seen[start:stop].sum()) for start, stop in distinct]
        images, of_images = images + sum(shared), of_images + sum(stop - start for start, stop in distinct)
        classes, of_classes = classes + sum(map(bool, shared)), of_classes + len(distinct)
    return Overlap(images, of_images, classes, of_classes)

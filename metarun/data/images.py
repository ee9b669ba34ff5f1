"""Few-shot classification tasks from labelled images: one uint8 tensor on the device, tasks by a hash and one gather."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from metarun.config import RangeError, require
from metarun.data.source import Data, Split, Stage, TaskShape, TaskSource
from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.rng import bits, choose, derive

Rotations = Literal["classes", "train_classes", "task", "none"]
"""Quarter turns: further classes in every split, in training only, drawn for each class of each task, or none."""


@dataclass(frozen=True)
class Classes:
    """Classes of images that lie one after another in a tensor: where each begins and how many it has, (classes,) int64."""

    start: Tensor
    size: Tensor

    def __len__(self) -> int:
        return len(self.start)

    @classmethod
    def of_equal_size(cls, members: NDArray[np.int64], size: int) -> "Classes":
        """Those numbered ``members`` of a set in which every class has ``size`` images."""
        numbers = torch.from_numpy(members)
        return cls(numbers * size, torch.full_like(numbers, size))

    def check(self, shape: TaskShape, split: str, key: str = "") -> None:
        """Raise a `RangeError` where these classes cannot fill a task of this shape; ``key`` is "" or "train_"."""
        if shape.ways is not None and shape.ways > len(self):
            raise RangeError(f"data.{key}ways", shape.ways, f"at most the {len(self)} classes of the {split} split")
        fewest = int(self.size.min())
        if shape.shots + shape.queries > fewest:
            raise RangeError(
                f"data.{key}shots + data.{key}queries",
                shape.shots + shape.queries,
                f"at most the {fewest} images of a class in the {split} split",
            )


class ImageData(Data):
    """Few-shot classification on a set of images whose classes are divided among the splits.

    Args:
        name: of the data set.
        seed: of the tasks.
        images: (images, C, H, W) uint8, class after class.
        splits: the classes of each split.
        train, test: shapes of a training task and of a test task.
        rotations: see `Rotations`.
        crop, flip: augmentation of training images, see `ImageTasks`.

    Raises:
        RangeError: a split cannot fill its tasks.
    """

    def __init__(
        self,
        name: str,
        seed: int,
        images: Tensor,
        splits: Mapping[Split, Classes],
        train: TaskShape,
        test: TaskShape,
        rotations: Rotations = "none",
        crop: int = 0,
        flip: bool = False,
    ) -> None:
        if train.ways is None or test.ways is None:
            raise ValueError("tasks of images are classification: they have ways")
        require(crop >= 0, "crop", crop, "0 or more pixels")
        self.crop, self.flip = crop, flip
        self.name, self.seed, self.images, self.train, self.test, self.rotations = name, seed, images, train, test, rotations
        self.spec = TaskSpec("classification", tuple(images.shape[1:]), test.ways, train.ways, name)
        self.splits = {split: self._with_turns(split, classes) for split, classes in splits.items()}
        for split, classes in self.splits.items():
            own = split == "train" and train != test
            classes.check(self._shape(split), split, "train_" if own else "")

    def stages(self, device: torch.device) -> list[Stage]:
        images = (self.images if self.rotations == "none" else quarter_turns(self.images)).to(device)
        turn = len(self.images) if self.rotations == "task" else None

        def source(split: Split, crop: int = 0, *, flip: bool = False) -> ImageTasks:
            key = derive(self.seed, "tasks", split, 0)
            return ImageTasks(key, images, self.splits[split], self._shape(split), turn, crop, flip)

        return [Stage(self.name, source("train", self.crop, flip=self.flip), source("val"), source("test"))]

    def _shape(self, split: Split) -> TaskShape:
        return self.train if split == "train" else self.test

    def _with_turns(self, split: Split, classes: Classes) -> Classes:
        """Classes four times over where their turns are classes of their own."""
        if self.rotations != "classes" and not (self.rotations == "train_classes" and split == "train"):
            return classes
        return Classes(torch.cat([classes.start + k * len(self.images) for k in range(4)]), classes.size.repeat(4))


class ImageTasks(TaskSource):
    """N-way tasks: classes without replacement, then images of each without replacement, class by class.

    ``context`` tells the global class ids, (T, ways).

    Args:
        key: of the random draws.
        images: (images, C, H, W) uint8.
        classes: those of this split.
        shape: of a task.
        turn: with rotations drawn per task, the number of images from one quarter turn of the whole set to the next in
            ``images``; each class of a task is turned by itself. None: not turned.
        crop: shift each image by up to this many pixels each way, black coming in.
        flip: mirror each image or not, left to right.
    """

    def __init__(
        self,
        key: int,
        images: Tensor,
        classes: Classes,
        shape: TaskShape,
        turn: int | None = None,
        crop: int = 0,
        flip: bool = False,
    ) -> None:
        self.key, self.images, self.shape, self.turn, self.crop, self.flip = key, images, shape, turn, crop, flip
        self.start, self.size = classes.start.to(images.device), classes.size.to(images.device)
        if shape.ways is None:
            raise ValueError("image tasks are classification: shape.ways is None")
        self.ways = shape.ways

    def sample(self, ids: Tensor) -> Episodes:
        ways, shots, per_class = self.ways, self.shape.shots, self.shape.shots + self.shape.queries
        ids = ids.to(self.images.device)
        draws = bits(self.key, ids, ways * (2 + per_class))
        chosen = choose(draws[:, :ways], len(self.start))
        within = choose(draws[:, 2 * ways :].view(-1, ways, per_class), self.size[chosen])
        index = self.start[chosen].unsqueeze(-1) + within
        if self.turn is not None:
            index = index + self.turn * (draws[:, ways : 2 * ways] >> 29).unsqueeze(-1)
        change = None
        if self.crop or self.flip:
            change = bits(derive(self.key, "augmentation"), ids, index[0].numel()).view_as(index)
        labels = torch.arange(ways, device=ids.device).unsqueeze(-1)
        support, query = (
            Examples(self._pixels(index, change, part), labels.expand(*index.shape[:2], width).flatten(1), ways)
            for part, width in ((slice(None, shots), shots), (slice(shots, None), per_class - shots))
        )
        return Episodes(support, query, {"classes": chosen})

    def _pixels(self, index: Tensor, change: Tensor | None, part: slice) -> Tensor:
        """(T, ways, n) → those of ``part`` (T, ways · n', C, H, W) float32 in [0, 1]."""
        pixels = self.images.index_select(0, index[..., part].flatten())
        if change is not None:
            pixels = augment(pixels, change[..., part].flatten(), self.crop, flip=self.flip)
        return (pixels * (1 / 255)).view(len(index), -1, *self.images.shape[1:])


def augment(images: Tensor, draws: Tensor, crop: int, *, flip: bool) -> Tensor:
    """Shift and mirror each image (n, C, H, W) by its own draw (n,) in [0, 2**31)."""
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device) + (draws % (2 * crop + 1)).unsqueeze(1)
    columns = torch.arange(width, device=images.device).expand(len(images), -1)
    if flip:
        columns = torch.where((draws >> 30).bool().unsqueeze(1), width - 1 - columns, columns)
    columns = columns + ((draws >> 12) % (2 * crop + 1)).unsqueeze(1)
    padded = F.pad(images, (crop,) * 4)
    image = torch.arange(len(images), device=images.device)
    # One gather; the channels, which are not indexed, come out last.
    return padded[image[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def quarter_turns(images: Tensor) -> Tensor:
    """(images, C, H, W) → (4 · images, C, H, W): as they are, then turned by 90, 180 and 270 degrees counterclockwise."""
    return torch.cat([torch.rot90(images, k, (2, 3)) for k in range(4)])

"""Few-shot classification tasks from labelled images: adds rotations, crops and flips to `metarun.data.classes`."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from metarun.config import require
from metarun.data.classes import ClassData, Classes, ClassTasks, Numbers, View, take
from metarun.data.source import Split, TaskShape
from metarun.rng import bits, derive

Rotations = Literal["classes", "train_classes", "task", "none"]
"""Quarter turns: additional classes in every split, or in training only; drawn for each class of each task; or none."""


class ImageData(ClassData):
    """Few-shot classification on a set of images whose classes are divided among stages and splits.

    Args:
        name, seed, classes, parts, train, test: see `ClassData`.
        images: (images, C, H, W) uint8, ordered by class.
        rotations: see `Rotations`; test tasks from groups of classes are never rotated.
        crop, flip: augmentation of training images, see `ImageTasks`.
        common: further keywords of `ClassData`.

    Raises:
        RangeError: a split is too small for its tasks.
    """

    def __init__(
        self,
        name: str,
        seed: int,
        images: Tensor,
        classes: Classes,
        parts: Mapping[str, Mapping[Split, Numbers]],
        train: TaskShape,
        test: TaskShape,
        *,
        rotations: Rotations = "none",
        crop: int = 0,
        flip: bool = False,
        **common: Any,
    ) -> None:
        require(crop >= 0, "crop", crop, "0 or more pixels")
        self.images, self.rotations, self.crop, self.flip = images, rotations, crop, flip
        super().__init__(name, seed, images, classes, parts, train, test, **common)

    def bring(self, shape: tuple[int, ...]) -> None:
        """Convert every image to ``shape`` (C, H, W), after the stage's own view, to fit a network for that shape."""
        views = self.views
        self.views = {name: partial(_then, views.get(name), partial(to_shape, shape=shape)) for name in self.parts}
        self.spec = replace(self.spec, input_shape=shape)

    def source(self, split: Split, key: int, examples: Tensor, classes: Classes, **common: Any) -> "ImageTasks":
        turn = len(self.images) if self.rotations == "task" and not self._upright(split) else None
        changes: dict[str, Any] = {"crop": self.crop, "flip": self.flip} if split == "train" else {}
        groups = self.groups(split)
        return ImageTasks(key, examples, classes, self.shape(split), turn=turn, groups=groups, **changes, **common)

    def variants(self, split: Split, classes: Classes) -> Classes:
        """The classes, followed by their three rotated copies if rotations are classes."""
        if self._upright(split) or (self.rotations != "classes" and not (self.rotations == "train_classes" and split == "train")):
            return classes
        return Classes(torch.cat([classes.start + k * len(self.images) for k in range(4)]), classes.size.repeat(4))

    def stored(self) -> Tensor:
        return self.images if self.rotations == "none" else quarter_turns(self.images)

    def _upright(self, split: Split) -> bool:
        """Whether images of this split are never rotated, whatever `rotations` is."""
        return split == "test" and self.test_groups is not None


class ImageTasks(ClassTasks):
    """N-way tasks of images, which may be rotated, cropped and mirrored.

    Args:
        key, classes, shape: see `ClassTasks`.
        images: (images, C, H, W) uint8.
        turn: offset in ``images`` from one quarter turn of the whole set to the next, if each class of a task is rotated by a
            random number of quarter turns. None: no rotation.
        crop: shift each image at random by up to this many pixels along each axis, filling with black.
        flip: mirror each image left to right at random.
        common: further keywords of `ClassTasks`.
    """

    def __init__(
        self,
        key: int,
        images: Tensor,
        classes: Classes,
        shape: TaskShape,
        *,
        turn: int | None = None,
        crop: int = 0,
        flip: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(key, images, classes, shape, **common)
        self.turn, self.crop, self.flip = turn, crop, flip

    def content(self, ids: Tensor) -> list[object]:
        return [*super().content(ids), self.crop, self.flip]

    def variant(self, index: Tensor, draws: Tensor) -> Tensor:
        return index if self.turn is None else index + self.turn * (draws >> 29).unsqueeze(-1)

    def augmentation(self, ids: Tensor, index: Tensor) -> Tensor | None:
        if not (self.crop or self.flip):
            return None
        return bits(derive(self.key, "augmentation"), ids, index[0].numel()).view_as(index)

    def read(self, index: Tensor, change: Tensor | None) -> Tensor:
        augmented = None if change is None else partial(augment, draws=change, crop=self.crop, flip=self.flip)
        return take(self.examples, index, self.device, self.view, augmented)


def augment(images: Tensor, draws: Tensor, crop: int, *, flip: bool) -> Tensor:
    """Shift and mirror each image (n, C, H, W) by its draw (n,) in [0, 2**31)."""
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device) + (draws % (2 * crop + 1)).unsqueeze(1)
    columns = torch.arange(width, device=images.device).expand(len(images), -1)
    if flip:
        columns = torch.where((draws >> 30).bool().unsqueeze(1), width - 1 - columns, columns)
    columns = columns + ((draws >> 12) % (2 * crop + 1)).unsqueeze(1)
    padded = F.pad(images, (crop,) * 4)
    image = torch.arange(len(images), device=images.device)
    # One gather; the channels are not indexed and end up last.
    return padded[image[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def quarter_turns(images: Tensor) -> Tensor:
    """(images, C, H, W) → (4 · images, C, H, W): the images, then rotated by 90, 180 and 270 degrees counterclockwise."""
    return torch.cat([torch.rot90(images, k, (2, 3)) for k in range(4)])


def to_shape(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(n, C, H, W) → (n, *shape): scaled bilinearly; grey is repeated over three channels, colours are averaged."""
    channels, *size = shape
    if list(images.shape[-2:]) != size:
        images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
    if channels == images.shape[1]:
        return images
    return images.mean(1, keepdim=True) if channels == 1 else images.expand(-1, channels, -1, -1).contiguous()


def _then(first: View | None, second: View, images: Tensor) -> Tensor:
    return second(first(images) if first else images)

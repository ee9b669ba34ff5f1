"""Few-shot classification tasks from labelled images: rotated classes, crops and flips on top of `metarun.data.classes`."""

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
"""Quarter turns: further classes in every split, in training only, drawn for each class of each task, or none."""


class ImageData(ClassData):
    """Few-shot classification on a set of images whose classes are divided among stages and splits.

    Args:
        name, seed, classes, parts, train, test: see `ClassData`.
        images: (images, C, H, W) uint8, class after class.
        rotations: see `Rotations`; test tasks of one group are never rotated.
        crop, flip: augmentation of training images, see `ImageTasks`.
        common: further keywords of `ClassData`.

    Raises:
        RangeError: a split cannot fill its tasks.
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
        """Have every image scaled to ``shape`` (C, H, W), after what a stage does to it: what a network made for others takes."""
        views = self.views
        self.views = {name: partial(_then, views.get(name), partial(to_shape, shape=shape)) for name in self.parts}
        self.spec = replace(self.spec, input_shape=shape)

    def source(self, split: Split, key: int, examples: Tensor, classes: Classes, **common: Any) -> "ImageTasks":
        turn = len(self.images) if self.rotations == "task" and not self._upright(split) else None
        changes: dict[str, Any] = {"crop": self.crop, "flip": self.flip} if split == "train" else {}
        groups = self.groups(split)
        return ImageTasks(key, examples, classes, self.shape(split), turn=turn, groups=groups, **changes, **common)

    def variants(self, split: Split, classes: Classes) -> Classes:
        """Classes four times over where their turns are classes of their own."""
        if self._upright(split) or (self.rotations != "classes" and not (self.rotations == "train_classes" and split == "train")):
            return classes
        return Classes(torch.cat([classes.start + k * len(self.images) for k in range(4)]), classes.size.repeat(4))

    def stored(self) -> Tensor:
        return self.images if self.rotations == "none" else quarter_turns(self.images)

    def _upright(self, split: Split) -> bool:
        """Whether images are never turned, whatever `rotations` says."""
        return split == "test" and self.test_groups is not None


class ImageTasks(ClassTasks):
    """N-way tasks of images, which may be rotated, cropped and mirrored.

    Args:
        key, classes, shape: see `ClassTasks`.
        images: (images, C, H, W) uint8.
        turn: with rotations drawn per task, the number of images from one quarter turn of the whole set to the next in
            ``images``; each class of a task is turned by itself. None: not turned.
        crop: shift each image by up to this many pixels each way, filling with black.
        flip: mirror each image at random, left to right.
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


def to_shape(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(n, C, H, W) → (n, *shape): scaled bilinearly; grey becomes three equal channels, colours become their mean."""
    channels, *size = shape
    if list(images.shape[-2:]) != size:
        images = F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)
    if channels == images.shape[1]:
        return images
    return images.mean(1, keepdim=True) if channels == 1 else images.expand(-1, channels, -1, -1).contiguous()


def _then(first: View | None, second: View, images: Tensor) -> Tensor:
    return second(first(images) if first else images)

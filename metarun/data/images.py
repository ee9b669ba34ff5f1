"""Few-shot classification tasks from labelled images: one uint8 tensor on the device, tasks by a hash and one gather."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from metarun.config import RangeError, require
from metarun.data.source import Data, Split, Stage, TaskShape, TaskSource
from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.kinds import CLASSIFICATION
from metarun.rng import bits, choose, derive

Numbers = NDArray[np.int64]
View = Callable[[Tensor], Tensor]

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
    def of_sizes(cls, sizes: Sequence[int]) -> "Classes":
        """Classes of these sizes, one after another from the first image on."""
        size = torch.tensor(sizes, dtype=torch.int64)
        return cls(size.cumsum(0) - size, size)

    def some(self, members: Numbers) -> "Classes":
        """Those numbered ``members``."""
        numbers = torch.from_numpy(np.asarray(members, np.int64))
        return Classes(self.start[numbers], self.size[numbers])

    def check(self, shape: TaskShape, where: str, key: str = "") -> None:
        """Raise a `RangeError` where these classes cannot fill a task of this shape; ``key`` is "" or "train_"."""
        if shape.ways and shape.ways > len(self):
            raise RangeError(f"data.{key}ways", shape.ways, f"at most the {len(self)} classes of the {where}")
        fewest = int(self.size.min())
        if shape.shots + shape.queries > fewest:
            raise RangeError(
                f"data.{key}shots + data.{key}queries",
                shape.shots + shape.queries,
                f"at most the {fewest} images of a class in the {where}",
            )


class ImageData(Data):
    """Few-shot classification on a set of images whose classes are divided among stages and splits.

    Args:
        name: of the data set.
        seed: of the tasks.
        images: (images, C, H, W) uint8, class after class.
        classes: all of them.
        parts: numbers of the classes of each split of each stage, by the stage's name; `stage_splits` makes them.
        train, test: shapes of a training task and of a test task.
        rotations: see `Rotations`.
        crop, flip: augmentation of training images, see `ImageTasks`.
        views: what a stage does to its images, by the stage's name, see `ImageTasks`; None: nothing.
        test_groups: sizes of the runs of test classes from which the classes of one test task come together, upright; None:
            any classes of the split.
        collection: name of ``images``, the same for all data sets that are made from them in this order; None: ``name``.

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
        views: Mapping[str, View] | None = None,
        test_groups: Sequence[int] | None = None,
        collection: str | None = None,
    ) -> None:
        require(crop >= 0, "crop", crop, "0 or more pixels")
        if test_groups is not None and test.classes > min(test_groups):
            raise RangeError("data.ways", test.ways, f"at most the {min(test_groups)} classes of the smallest group of the test")
        self.collection = collection or name
        self.crop, self.flip, self.views, self.test_groups = crop, flip, views or {}, test_groups
        self.name, self.seed, self.images, self.train, self.test, self.rotations = name, seed, images, train, test, rotations
        self.parts = {
            stage: {split: self._with_turns(split, classes.some(members)) for split, members in of.items()}
            for stage, of in parts.items()
        }
        for stage, of in self.parts.items():
            for split, members in of.items():
                own = split == "train" and train != test
                where = f"{split} split" + (f" of stage {stage}" if len(parts) > 1 else "")
                members.check(self._shape(split), where, "train_" if own else "")
        in_training = sum(len(of["train"]) for of in self.parts.values())
        self.spec = TaskSpec(CLASSIFICATION, tuple(images.shape[1:]), test.classes, train.classes, name, in_training)

    def bring(self, shape: tuple[int, ...]) -> None:
        """Have every image scaled to ``shape`` (C, H, W), after what a stage does to it: what a network made for others takes."""
        views = self.views
        self.views = {name: partial(_then, views.get(name), partial(to_shape, shape=shape)) for name in self.parts}
        self.spec = replace(self.spec, input_shape=shape)

    def members(self, split: Split) -> dict[str, list[tuple[int, int]]]:
        count = len(self.images)  # a turned class has the numbers of the upright one
        starts = [(of[split].start % count, of[split].size) for of in self.parts.values()]
        return {self.collection: [(a, a + n) for start, size in starts for a, n in zip(start.tolist(), size.tolist(), strict=True)]}

    @property
    def splits(self) -> dict[Split, Classes]:
        """The classes of each split of the first stage."""
        return next(iter(self.parts.values()))

    def stages(self, device: torch.device, first_class: int = 0) -> list[Stage]:
        """As in `Data`; ``first_class`` is the number that the first class of training goes by in the tasks' context."""
        images = self.images if self.rotations == "none" else quarter_turns(self.images)
        if fits(images, device):
            images = images.to(device)
        turn = len(self.images) if self.rotations == "task" else None

        def source(number: int, split: Split, classes: Classes, view: View | None) -> ImageTasks:
            first = first_class + sum(len(of["train"]) for of in list(self.parts.values())[:number])
            key = derive(self.seed, "tasks", split, number)
            changes = (self.crop, self.flip) if split == "train" else (0, False)
            groups = None if split != "test" or self.test_groups is None else Classes.of_sizes(self.test_groups)
            turned = None if self._upright(split) else turn
            return ImageTasks(key, images, classes, self._shape(split), turned, *changes, view, device, groups, first)

        return [
            Stage(name, *(source(number, split, of[split], self.views.get(name)) for split in ("train", "val", "test")))
            for number, (name, of) in enumerate(self.parts.items())
        ]

    def _shape(self, split: Split) -> TaskShape:
        return self.train if split == "train" else self.test

    def _upright(self, split: Split) -> bool:
        """Whether images are never turned, whatever `rotations` says."""
        return split == "test" and self.test_groups is not None

    def _with_turns(self, split: Split, classes: Classes) -> Classes:
        """Classes four times over where their turns are classes of their own."""
        if self._upright(split) or (self.rotations != "classes" and not (self.rotations == "train_classes" and split == "train")):
            return classes
        return Classes(torch.cat([classes.start + k * len(self.images) for k in range(4)]), classes.size.repeat(4))


def stage_splits(
    classes: int, stages: int, seed: int, blocks: Sequence[Numbers] | None = None, name: str = "group"
) -> dict[str, dict[Split, Numbers]]:
    """All classes divided among stages, and in each of a stage's blocks a fifth for validation and a fifth for the test.

    Args:
        classes: how many there are.
        stages: how many to make.
        seed: of what is drawn.
        blocks: numbers of the classes of each block (an alphabet, a superclass), in order: blocks stay whole and stages are
            runs of them. None: a stage is one block of classes at random.
        name: what a block is called.

    Raises:
        RangeError: there are fewer blocks than stages.
    """
    most = classes if blocks is None else len(blocks)
    require(0 < stages <= most, "stages", stages, f"1 to {most}, or null")
    random = np.random.default_rng(derive(seed, "stages"))
    if blocks is None:
        blocks = np.array_split(random.permutation(classes), stages)
    made: dict[str, dict[Split, Numbers]] = {}
    for run in np.array_split(np.arange(len(blocks)), stages):
        parts: dict[Split, list[Numbers]] = {"train": [], "val": [], "test": []}
        for members in (random.permutation(blocks[i]) for i in run):
            held = len(members) // 5
            for split, some in zip(parts, np.split(members, [len(members) - 2 * held, len(members) - held]), strict=True):
                parts[split].append(some)
        first, last = run[0] + 1, run[-1] + 1
        stage = f"{name} {first}" if first == last else f"{name} {first}-{last}"
        made[stage] = {split: np.concatenate(some) for split, some in parts.items()}
    return made


class ImageTasks(TaskSource):
    """N-way tasks: classes without replacement, then images of each without replacement, class by class.

    ``context`` tells the classes' numbers, (T, ways): in training no two classes of any stage have the same.

    Args:
        key: of the random draws.
        images: (images, C, H, W) uint8.
        classes: those of this split.
        shape: of a task.
        turn: with rotations drawn per task, the number of images from one quarter turn of the whole set to the next in
            ``images``; each class of a task is turned by itself. None: not turned.
        crop: shift each image by up to this many pixels each way, black coming in.
        flip: mirror each image or not, left to right.
        view: applied to the images (n, C, H, W) float32 in [0, 1] of every task: a permutation of pixels, a rotation.
        device: where tasks are wanted, if not where ``images`` lie.
        groups: runs of ``classes``, of one of which, at random, a task takes all its classes.
        first_class: the number that the first of ``classes`` goes by in the context.
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
        view: View | None = None,
        device: torch.device | None = None,
        groups: Classes | None = None,
        first_class: int = 0,
    ) -> None:
        self.device = device or images.device
        self.groups = groups and Classes(groups.start.to(images.device), groups.size.to(images.device))
        self.key, self.images, self.shape, self.turn = key, images, shape, turn
        self.crop, self.flip, self.view, self.first_class = crop, flip, view, first_class
        self.start, self.size = classes.start.to(images.device), classes.size.to(images.device)
        self.ways = shape.classes

    def sample(self, ids: Tensor) -> Episodes:
        ways, shots, per_class = self.ways, self.shape.shots, self.shape.shots + self.shape.queries
        ids = ids.to(self.images.device, non_blocking=True)
        chosen, index = self._draw(ids)
        change = None
        if self.crop or self.flip:
            change = bits(derive(self.key, "augmentation"), ids, index[0].numel()).view_as(index)
        labels = torch.arange(ways, device=self.device).unsqueeze(-1)
        support, query = (
            Examples(self._pixels(index, change, part), labels.expand(*index.shape[:2], width).flatten(1), ways)
            for part, width in ((slice(None, shots), shots), (slice(shots, None), per_class - shots))
        )
        return Episodes(support, query, {"classes": (chosen + self.first_class).to(self.device)})

    def content(self, ids: Tensor) -> object:
        _, index = self._draw(ids.to(self.images.device))
        # Pixels are whole numbers, the same on every device; what a view makes of them may not be.
        return [self.images[index.flatten()], index.shape, self.shape.shots, self.view, self.crop, self.flip]

    def classes(self, ids: Tensor) -> set[Hashable]:
        chosen, _ = self._draw(ids.to(self.images.device))
        return {(self.images.data_ptr(), start) for start in self.start[chosen.unique()].tolist()}

    def _draw(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Of the tasks ``ids`` (T,): places of their classes (T, ways), and of their images (T, ways, shots + queries)."""
        ways, per_class = self.ways, self.shape.shots + self.shape.queries
        draws = bits(self.key, ids, ways * (2 + per_class))
        if self.groups is None:
            chosen = choose(draws[:, :ways], len(self.start))
        else:
            group = (bits(derive(self.key, "group"), ids, 1)[:, 0] * len(self.groups)) >> 31
            chosen = self.groups.start[group].unsqueeze(1) + choose(draws[:, :ways], self.groups.size[group])
        within = choose(draws[:, 2 * ways :].view(-1, ways, per_class), self.size[chosen])
        index = self.start[chosen].unsqueeze(-1) + within
        if self.turn is not None:
            index = index + self.turn * (draws[:, ways : 2 * ways] >> 29).unsqueeze(-1)
        return chosen, index

    def _pixels(self, index: Tensor, change: Tensor | None, part: slice) -> Tensor:
        """(T, ways, n) → those of ``part`` (T, ways · n', C, H, W) float32 in [0, 1]."""
        draws = None if change is None else change[..., part].flatten()
        scaled = pixels(self.images, index[..., part].flatten(), self.device, self.view, draws, self.crop, flip=self.flip)
        return scaled.view(len(index), -1, *scaled.shape[1:])


def pixels(
    images: Tensor,
    index: Tensor,
    device: torch.device,
    view: View | None,
    change: Tensor | None = None,
    crop: int = 0,
    *,
    flip: bool = False,
) -> Tensor:
    """The images (n, C, H, W) uint8 at ``index`` (m,), on ``device`` → (m, C, H, W) float32 in [0, 1].

    ``change`` (m,) are the draws of `augment`, and ``view`` is applied to what results.
    """
    found = images.index_select(0, index)
    if change is not None:
        found = augment(found, change, crop, flip=flip)
    scaled = found.to(device) * (1 / 255)
    return scaled if view is None else view(scaled)


def fits(images: Tensor, device: torch.device) -> bool:
    """Whether the images may lie on the device whole, with half of what is free there left for training."""
    if device.type != "cuda":
        return True
    return images.numel() * 2 < torch.cuda.mem_get_info(device)[0]


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

"""CIFAR-FS: CIFAR-100 with a random split into 64 / 16 / 20 classes (Bertinetto et al., ICLR 2019). Images: `cifar100.py`."""

from typing import Literal

from metarun.data import cifar100
from metarun.data.classes import Classes, stage_splits
from metarun.data.images import ImageData, Rotations
from metarun.data.source import task_shapes


class CIFARFS(ImageData):
    """Tasks over photographs of 32×32 pixels, inputs (3, 32, 32) in [0, 1], 600 images per class.

    Args:
        seed: of the tasks.
        root: folders with `cifar100/cifar-100-binary.tar.gz`; null: `METARUN_DATA`, else the user's data folder.
        rotations: quarter turns as additional classes in every split ("classes") or in training only ("train_classes"), drawn
            for each class of each task ("task"), or "none".
        crop: shift training images at random by up to this many pixels, filling with black.
        flip: mirror training images left to right at random.
        ways, shots, queries: classes of a test task, support examples and queries per class.
        train_ways, train_shots, train_queries: the same for training tasks; null: as for test tasks.
        stages: number of stages; each has its share of the 100 classes, a fifth of them for validation and a fifth for the test.
            null: one stage with the published split.
        stage_by: stages are groups of superclasses ("superclass") or of random classes ("random").
    """

    lists = "cifarfs"
    """Name of the split lists in the package, and of the data set."""

    def __init__(
        self,
        seed: int,
        *,
        root: str | None = None,
        rotations: Rotations = "none",
        crop: int = 0,
        flip: bool = False,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        train_ways: int | None = None,
        train_shots: int | None = None,
        train_queries: int | None = None,
        stages: int | None = None,
        stage_by: Literal["superclass", "random"] = "superclass",
    ) -> None:
        shapes = task_shapes(ways, shots, queries, train_ways, train_shots, train_queries)
        cifar = cifar100.load(root)
        blocks = (cifar.superclasses(), "superclasses") if stage_by == "superclass" else (None, "group")
        super().__init__(
            self.lists,
            seed,
            cifar.images,
            Classes.of_sizes([len(cifar.images) // len(cifar.names)] * len(cifar.names)),
            {self.lists: cifar.split(self.lists)} if stages is None else stage_splits(len(cifar.names), stages, seed, *blocks),
            *shapes,
            rotations=rotations,
            crop=crop,
            flip=flip,
            collection="cifar100",
        )

"""CIFAR-FS: CIFAR-100 with 64 / 16 / 20 classes at random (Bertinetto et al., ICLR 2019). Images: `cifar100.py`."""

from typing import Literal

from metarun.data import cifar100
from metarun.data.classes import Classes, stage_splits
from metarun.data.images import ImageData, Rotations
from metarun.data.source import task_shapes


class CIFARFS(ImageData):
    """Tasks over photographs of 32×32 pixels, inputs (3, 32, 32) in [0, 1], 600 images a class.

    Args:
        seed: of the tasks.
        root: folders with `cifar100/cifar-100-binary.tar.gz`; null: `METARUN_DATA`, else the user's data folder.
        rotations: quarter turns as further classes in every split ("classes") or in training only ("train_classes"), drawn for
            each class of each task ("task"), or "none".
        crop: shift training images by up to this many pixels at random, black coming in.
        flip: mirror training images at random.
        ways, shots, queries: classes of a test task, support examples and queries of each.
        train_ways, train_shots, train_queries: the same in training; null: as in the test.
        stages: divide the 100 classes into this many stages, in each a fifth for validation and a fifth for the test; null: one
            stage, split as published.
        stage_by: stages are groups of superclasses ("superclass"), or of classes at random.
    """

    lists = "cifarfs"
    """The shipped split lists, and the name of the data."""

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
        whole = cifar100.load(root)
        blocks = (whole.superclasses(), "superclasses") if stage_by == "superclass" else (None, "group")
        super().__init__(
            self.lists,
            seed,
            whole.images,
            Classes.of_sizes([len(whole.images) // len(whole.names)] * len(whole.names)),
            {self.lists: whole.split(self.lists)} if stages is None else stage_splits(len(whole.names), stages, seed, *blocks),
            *shapes,
            rotations=rotations,
            crop=crop,
            flip=flip,
            collection="cifar100",
        )

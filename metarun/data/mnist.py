"""MNIST: 70,000 handwritten digits of 28×28 pixels (LeCun, Cortes and Burges), licence CC BY-SA 3.0.

Read from the four official gzipped idx files; inputs (1, 28, 28) in [0, 1]. Every split has all ten digits: the last 5,000 of
the 60,000 training images are for validation, the 10,000 test images for the test.
"""

import gzip
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from metarun.config import ConfigError, require
from metarun.data import archives
from metarun.data.classes import Classes, Numbers, View
from metarun.data.source import Split, task_shapes
from metarun.data.stream import ImageStream, Sampling, Scenario
from metarun.rng import derive

URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
FILES = {  # published MD5, and number of images
    "train-images-idx3-ubyte.gz": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", 60000),
    "train-labels-idx1-ubyte.gz": ("d53e105ee54ea40749a09fcbcd1e9432", 60000),
    "t10k-images-idx3-ubyte.gz": ("9fb629c4189551a2d022fa330f9573f3", 10000),
    "t10k-labels-idx1-ubyte.gz": ("ec29112dd5afa0611ce80d1b7f02629c", 10000),
}
VALIDATION = 5000
SIDE, DIGITS = 28, 10
SPLITS: tuple[Split, ...] = ("train", "val", "test")
DECODING = "v1"


class MNIST(ImageStream):
    """Few-shot tasks over digits, or streams of digits; training and test have the same classes but different images.

    Args:
        seed: of the tasks.
        root: folders with `mnist/*-ubyte.gz`; null: `METARUN_DATA`, else the user's data folder.
        ways, shots, queries: classes of a test task, support examples and queries per class.
        train_ways, train_shots, train_queries: the same for training tasks; null: as for test tasks.
        stages: number of stages; null: one.
        stage_by: each stage has its share of the digits, in order ("digit": five stages are 0-1, 2-3, …, 8-9) or in random order
            ("random"), its own permutation of the pixels ("permutation", none for the first stage) or its own angle of
            rotation, in equal steps from 0 up to 180 degrees ("rotation").
        scenario: "task", "domain" or "class": a stream of single digits, see `metarun.data.stream`; null: few-shot tasks.
        sampling: order of a stream's training examples, "epochs" or "uniform".
    """

    default_stages = 5

    def __init__(
        self,
        seed: int,
        *,
        root: str | None = None,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        train_ways: int | None = None,
        train_shots: int | None = None,
        train_queries: int | None = None,
        stages: int | None = None,
        stage_by: Literal["digit", "random", "permutation", "rotation"] = "digit",
        scenario: Scenario | None = None,
        sampling: Sampling = "epochs",
    ) -> None:
        require(stages is None or stages > 0, "stages", stages, "1 or more, or null")
        divided = stage_by in ("digit", "random")
        require(stages is None or not divided or stages <= DIGITS, "stages", stages, f"1 to {DIGITS}, or null")
        decoded = archives.cached(f"mnist-{DECODING}", {"images", "sizes"}, lambda: decode(root))
        order = np.arange(DIGITS)
        if stage_by == "random":
            order = np.random.default_rng(derive(seed, "stages")).permutation(DIGITS)
        digits = np.array_split(order, stages or 1) if divided else [order] * (stages or 1)
        parts: dict[str, dict[Split, Numbers]] = {}
        views: dict[str, View] = {}
        for i, members in enumerate(digits):
            name, view = _stage(stage_by, i, len(digits), members, seed)
            parts[name] = {split: members + DIGITS * number for number, split in enumerate(SPLITS)}
            views |= {name: view} if view else {}
        super().__init__(
            "mnist",
            seed,
            torch.from_numpy(decoded["images"]),
            Classes.of_sizes(decoded["sizes"].tolist()),
            parts,
            *task_shapes(ways, shots, queries, train_ways, train_shots, train_queries),
            views=views,
            scenario=scenario,
            sampling=sampling,
        )


def _stage(by: str, number: int, stages: int, digits: Numbers, seed: int) -> tuple[str, View | None]:
    """Name of a stage, and the transformation of its images."""
    if stages == 1:
        return "mnist", None
    if by == "digit":
        return f"digits {digits[0]}-{digits[-1]}" if len(digits) > 1 else f"digit {digits[0]}", None
    if by == "random":
        return f"digit{'s' * (len(digits) > 1)} {', '.join(map(str, digits))}", None
    if by == "permutation":
        order = np.random.default_rng(derive(seed, "permutation", number)).permutation(SIDE * SIDE)
        return f"permutation {number + 1}", partial(permute, order=torch.from_numpy(order)) if number else None
    angle = 180.0 * number / stages
    return f"{angle:g} degrees", partial(rotate, degrees=angle) if number else None


def permute(images: Tensor, order: Tensor) -> Tensor:
    """Permute the pixels of images (n, C, H, W): pixel ``i`` of the result is pixel ``order[i]`` of the input."""
    return images.flatten(2)[..., order.to(images.device)].view_as(images)


def rotate(images: Tensor, degrees: float) -> Tensor:
    """Rotate images (n, C, H, W) counterclockwise about their centre, by bilinear interpolation, filling with black."""
    angle = torch.tensor(degrees, device=images.device).deg2rad()
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros((), device=images.device)
    turn = torch.stack([torch.stack([cos, -sin, zero]), torch.stack([sin, cos, zero])])
    grid = F.affine_grid(turn.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def decode(root: str | None) -> dict[str, NDArray[np.generic]]:
    """Images (70000, 1, 28, 28) uint8, ordered by split and digit, and the number of images of each split and digit (30,)."""
    files = {name: read_idx(archives.find(root, "mnist", name, URL + name, md5), count) for name, (md5, count) in FILES.items()}
    train, train_labels, test, test_labels = files.values()
    cut = len(train) - VALIDATION
    images, sizes = [], []
    for part, labels in ((train[:cut], train_labels[:cut]), (train[cut:], train_labels[cut:]), (test, test_labels)):
        images.append(part[np.argsort(labels, kind="stable")])
        sizes.append(np.bincount(labels, minlength=DIGITS))
    return {"images": np.concatenate(images)[:, None], "sizes": np.concatenate(sizes)}


def read_idx(path: Path, count: int) -> NDArray[np.uint8]:
    """The content of an idx file with ``count`` images of 28×28 pixels or ``count`` labels, whatever its checksum.

    Raises:
        ConfigError: the file has other content.
    """
    image = "images" in path.name
    header = struct.pack(">IIII", 2051, count, SIDE, SIDE) if image else struct.pack(">II", 2049, count)
    expected = len(header) + count * (SIDE * SIDE if image else 1)
    try:
        with gzip.open(path) as file:
            content = file.read(expected + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"{path}: not a readable gzip file ({error}); delete it to download it again") from None
    if not content.startswith(header) or len(content) != expected:
        kind = f"{count:,} images of {SIDE}×{SIDE} pixels" if image else f"{count:,} labels"
        raise ConfigError(f"{path}: expected an idx file of {kind} ({expected:,} bytes), found other content")
    values = np.frombuffer(content, np.uint8, offset=len(header))
    if not image and values.max() >= DIGITS:
        raise ConfigError(f"{path}: expected labels 0 to 9, found {values.max()}")
    return values.reshape(count, SIDE, SIDE) if image else values

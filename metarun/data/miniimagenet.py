"""miniImageNet: 100 classes of ImageNet (Vinyals et al. 2016), 64 / 16 / 20 (Ravi and Larochelle 2017), 600 images each of 84×84.

The images belong to ImageNet and are subject to its terms, so metarun neither includes nor downloads them. It reads the common
formats from `<root>/miniimagenet/`; inputs (3, 84, 84) in [0, 1]:

- `mini-imagenet-cache-{train,val,test}.pkl`: dictionaries with `image_data` (n, 84, 84, 3) and `class_dict` {class: [rows]};
- `images/*.jpg` with `train.csv`, `val.csv` and `test.csv`, with columns `filename` and `label`;
- `{train,val,test}/<class>/*.jpg`.

They are decoded once to a memory-mapped uint8 file in the cache (1.3 GB), which is copied to the GPU if it fits.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from metarun.config import ConfigError
from metarun.data import archives
from metarun.data.classes import Classes, stage_splits
from metarun.data.images import ImageData
from metarun.data.pickles import load_arrays
from metarun.data.source import Split, task_shapes

CLASSES: dict[Split, int] = {"train": 64, "val": 16, "test": 20}
PER_CLASS = 600
SIDE = 84
DECODING = "v1"
MOST = 2 * max(CLASSES.values()) * PER_CLASS * SIDE * SIDE * 3
"""Largest size of a pickle in bytes; the oldest pickle protocol needs up to two bytes per byte of an image."""
PICKLES = {"train": ("train",), "val": ("val", "validation"), "test": ("test",)}


class MiniImageNet(ImageData):
    """Tasks over photographs.

    Args:
        seed: of the tasks.
        root: folders with `miniimagenet/`; null: `METARUN_DATA`, else the user's data folder.
        crop: shift training images at random by up to this many pixels, filling with black.
        flip: mirror training images left to right at random.
        ways, shots, queries: classes of a test task, support examples and queries per class.
        train_ways, train_shots, train_queries: the same for training tasks; null: as for test tasks.
        stages: number of stages; each has its share of the 100 classes, a fifth of them for validation and a fifth for the test.
            null: one stage with the published split.
        stage_by: stages are consecutive classes by WordNet number, which keeps similar classes together ("wordnet"), or random
            classes ("random").

    Raises:
        ConfigError: the images are missing or incomplete; the message says which files to put where.
    """

    def __init__(
        self,
        seed: int,
        *,
        root: str | None = None,
        crop: int = 0,
        flip: bool = False,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        train_ways: int | None = None,
        train_shots: int | None = None,
        train_queries: int | None = None,
        stages: int | None = None,
        stage_by: Literal["wordnet", "random"] = "wordnet",
    ) -> None:
        shapes = task_shapes(ways, shots, queries, train_ways, train_shots, train_queries)
        count = sum(CLASSES.values())
        images, names = archives.mapped(f"miniimagenet-{DECODING}", (count * PER_CLASS, 3, SIDE, SIDE), lambda: decode(root))
        cuts = np.cumsum([0, *CLASSES.values()])
        published = {which: np.arange(*cuts[i : i + 2]) for i, which in enumerate(CLASSES)}
        by_number = [np.array([i]) for i in np.argsort(names)] if stage_by == "wordnet" else None
        if by_number is not None and stages is not None:
            by_number = [np.concatenate(run) for run in np.array_split(np.stack(by_number), stages)]
        super().__init__(
            "miniimagenet",
            seed,
            torch.from_numpy(images),
            Classes.of_sizes([PER_CLASS] * count),
            {"miniimagenet": published} if stages is None else stage_splits(count, stages, seed, by_number),
            *shapes,
            crop=crop,
            flip=flip,
        )


def decode(root: str | None) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Name and images (600, 3, 84, 84) of each class: training classes in alphabetical order, then validation, then test."""
    folder = find(root)
    for which in CLASSES:
        if pickles := _pickle(folder, which):
            yield from from_pickle(pickles, which)
        elif (folder / "images").is_dir():
            yield from from_files(listed(folder, which), folder / f"{which}.csv", which)
        else:
            yield from from_files(foldered(folder / which), folder / which, which)


def find(root: str | None) -> Path:
    """The folder with the images, in any of the formats."""
    for base in archives.roots(root):
        folder = base / "miniimagenet"
        if _pickle(folder, "train") or (folder / "images").is_dir() or (folder / "train").is_dir():
            return folder
    places = ", ".join(str(base / "miniimagenet") for base in archives.roots(root))
    raise ConfigError(
        "data.root: miniImageNet not found, and ImageNet's terms do not allow metarun to download it; put its"
        " mini-imagenet-cache-{train,val,test}.pkl, or images/ with train.csv, val.csv and test.csv,"
        f" or train/, val/ and test/ with a folder for each class, into {places}"
    )


def _pickle(folder: Path, which: Split) -> Path | None:
    names = (folder / f"mini-imagenet-cache-{name}.pkl" for name in PICKLES[which])
    return next((path for path in names if path.is_file()), None)


def from_pickle(path: Path, which: Split) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The classes of one of the three pickled files."""
    content = load_arrays(path, MOST)
    images = content.get("image_data") if isinstance(content, dict) else None
    listed_rows = content.get("class_dict") if isinstance(content, dict) else None
    if not isinstance(images, np.ndarray) or not isinstance(listed_rows, dict):
        raise ConfigError(f"{path}: expected a dictionary with image_data and class_dict")
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE, 3):
        raise ConfigError(f"{path}: expected image_data (n, {SIDE}, {SIDE}, 3) uint8, found {images.shape} {images.dtype}")
    rows = {str(name): _rows(path, str(name), numbers) for name, numbers in listed_rows.items()}
    _check_classes(path, which, {name: len(numbers) for name, numbers in rows.items()})
    for name, numbers in sorted(rows.items()):
        if numbers.min() < 0 or numbers.max() >= len(images):
            raise ConfigError(
                f"{path}: class {name}: expected rows 0 to {len(images) - 1}, found {numbers.min()} to {numbers.max()}"
            )
        yield name, images[numbers].transpose(0, 3, 1, 2)


def _rows(path: Path, name: str, numbers: Any) -> NDArray[np.int64]:
    """The rows of a class, from a list or an array."""
    plain = isinstance(numbers, list) and len(numbers) <= PER_CLASS and all(type(number) is int for number in numbers)
    array = isinstance(numbers, np.ndarray) and numbers.ndim == 1 and numbers.dtype.kind in "iu"
    if not (plain or array):
        raise ConfigError(f"{path}: class {name}: expected a list of at most {PER_CLASS} rows")
    return np.array(numbers, np.int64)


def listed(folder: Path, which: Split) -> dict[str, list[Path]]:
    """The files of each class of a split, from its CSV file."""
    path = folder / f"{which}.csv"
    try:
        with path.open(newline="") as file:
            lines = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: expected a CSV file of images ({error})") from None
    files: dict[str, list[Path]] = {}
    for line in lines:
        if not line.get("filename") or not line.get("label"):
            raise ConfigError(f"{path}: expected the columns filename and label, found {', '.join(map(str, line))}")
        files.setdefault(line["label"], []).append(folder / "images" / Path(line["filename"]).name)
    return files


def foldered(folder: Path) -> dict[str, list[Path]]:
    """The files of each class of a split, from its folder."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: expected a folder with one folder per class; it does not exist")
    classes = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return {path.name: [file for file in path.iterdir() if not file.name.startswith(".")] for path in classes}


def from_files(files: dict[str, list[Path]], where: Path, which: Split) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The classes of a split from image files, in the order of their names; images of other sizes are scaled."""
    _check_classes(where, which, {name: len(paths) for name, paths in files.items()})
    for name in sorted(files):
        yield name, np.stack([_decode_one(path) for path in sorted(files[name], key=lambda path: path.name)])


def _decode_one(path: Path) -> NDArray[np.uint8]:
    try:
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            colour = image.convert("RGB")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{path}: not a readable image ({error})") from None
    if colour.size != (SIDE, SIDE):
        colour = colour.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(colour).transpose(2, 0, 1)


def _check_classes(where: Path, which: Split, sizes: dict[str, int]) -> None:
    if len(sizes) != CLASSES[which]:
        raise ConfigError(f"{where}: expected {CLASSES[which]} classes, found {len(sizes)}")
    for name, size in sizes.items():
        if size != PER_CLASS:
            raise ConfigError(f"{where}: expected {PER_CLASS} images of class {name}, found {size}")

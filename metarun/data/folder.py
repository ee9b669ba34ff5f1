"""A folder of the user's images, `<path>/<class>/<image>`, in common formats."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from metarun.config import ConfigError, nearest, require
from metarun.data import archives
from metarun.data.classes import Classes, check_shares, random_split, stage_splits
from metarun.data.images import ImageData, Rotations
from metarun.data.source import Split, TaskShape, task_shapes

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats that Pillow decodes itself, whatever the suffix of a file; an EPS file is a program, which Ghostscript would run."""
DECODING = "v1"


class Folder(ImageData):
    """Tasks over the classes of a folder; each image is cropped to its central square and scaled to one size.

    Images are decoded once into the cache, and again when a file changes. Their own licence applies.

    Args:
        seed: of the tasks.
        path: a folder with one folder of images per class.
        size: side of an image after scaling, in pixels.
        channels: 3 for colour, 1 for grey.
        lists: folder with train.txt, val.txt and test.txt, one class per line; null: split at random.
        split: shares of the classes for training, validation and test in a random split.
        split_seed: of the random split.
        rotations: quarter turns as additional classes in every split ("classes") or in training only ("train_classes"), drawn
            for each class of each task ("task"), or "none".
        crop: shift training images at random by up to this many pixels, filling with black.
        flip: mirror training images left to right at random.
        ways, shots, queries: classes of a test task, support examples and queries per class.
        train_ways, train_shots, train_queries: the same for training tasks; null: as for test tasks.
        stages: number of stages among which the classes are divided at random, in each a fifth for validation and a fifth for
            the test; null: one stage, split by ``lists`` or ``split``.

    Raises:
        ConfigError: the folder, a list or an image is invalid; the message names it.
    """

    def __init__(
        self,
        seed: int,
        *,
        path: str,
        size: int = 84,
        channels: int = 3,
        lists: str | None = None,
        split: tuple[float, float, float] = (0.6, 0.2, 0.2),
        split_seed: int = 0,
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
    ) -> None:
        require(size > 0, "size", size, "1 or more pixels")
        require(channels in (1, 3), "channels", channels, "3 for colour or 1 for grey")
        check_shares(split)
        train, test = task_shapes(ways, shots, queries, train_ways, train_shots, train_queries)
        root = Path(path).expanduser()
        files = find_images(root)
        names = sorted(files)
        if lists:
            parts = listed_split(Path(lists).expanduser(), files)
        else:
            drawn = random_split(len(names), split, split_seed, "folder split")
            parts = {which: [names[i] for i in members] for which, members in drawn.items()}
        for which, members in parts.items():
            _check_sizes(root, files, members, train if which == "train" else test)
        decoded = archives.cached(_cache_name(files, size, channels), {"images"}, lambda: decode(files, size, channels))
        numbers = {which: np.array([names.index(member) for member in members]) for which, members in parts.items()}
        super().__init__(
            "folder",
            seed,
            torch.from_numpy(decoded["images"]),
            Classes.of_sizes([len(files[name]) for name in names]),
            {"folder": numbers} if stages is None else stage_splits(len(names), stages, seed),
            train,
            test,
            rotations=rotations,
            crop=crop,
            flip=flip,
            collection=_collection(files),
        )


def find_images(root: Path) -> dict[str, list[Path]]:
    """The image files of each class, in alphabetical order; hidden files and folders are ignored."""
    if not root.is_dir():
        raise ConfigError(f"data.path={root}: expected a folder with one folder of images per class; it does not exist")
    files = {
        folder.name: sorted(file for file in folder.iterdir() if not file.name.startswith("."))
        for folder in root.iterdir()
        if folder.is_dir() and not folder.name.startswith(".")
    }
    if not files:
        raise ConfigError(f"data.path={root}: expected one folder of images per class, found no folders")
    for images in files.values():
        for file in images:
            if not file.is_file() or file.suffix.lower() not in SUFFIXES:
                raise ConfigError(f"{file}: expected an image ({', '.join(sorted(s[1:] for s in SUFFIXES))}); remove the file")
    return files


def listed_split(lists: Path, files: dict[str, list[Path]]) -> dict[Split, list[str]]:
    """The classes named in train.txt, val.txt and test.txt."""
    parts: dict[Split, list[str]] = {}
    seen: dict[str, str] = {}
    for which in ("train", "val", "test"):
        path = lists / f"{which}.txt"
        try:
            parts[which] = path.read_text().split()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: expected a list of classes, one name per line ({error})") from None
        for name in parts[which]:
            if name not in files:
                raise ConfigError(f"{path}: the folder has no class {name}{nearest(name, files)}")
            if name in seen:
                raise ConfigError(f"{path}: class {name} is also in {seen[name]}")
            seen[name] = path.name
    return parts


def _check_sizes(root: Path, files: dict[str, list[Path]], members: list[str], shape: TaskShape) -> None:
    need = shape.shots + shape.queries
    for name in members:
        if len(files[name]) < need:
            raise ConfigError(f"{root / name}: expected at least {need} images (shots + queries), found {len(files[name])}")


def _cache_name(files: dict[str, list[Path]], size: int, channels: int) -> str:
    """A cache name that changes whenever a file or the decoding changes."""
    digest = hashlib.blake2b(f"{DECODING} {size} {channels}".encode(), digest_size=10)
    for name in sorted(files):
        for file in files[name]:
            stat = file.stat()
            digest.update(f"{file.resolve()} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return f"folder-{digest.hexdigest()}"


def _collection(files: dict[str, list[Path]]) -> str:
    """A name shared by all folders with the same class names, file names and file sizes."""
    listing = "".join(f"{name}/{file.name} {file.stat().st_size}\n" for name in sorted(files) for file in files[name])
    return f"folder {hashlib.blake2b(listing.encode(), digest_size=8).hexdigest()}"


def decode(files: dict[str, list[Path]], size: int, channels: int) -> dict[str, NDArray[np.generic]]:
    """All images (n, channels, size, size) uint8, ordered by class and file name."""
    images = [_decode_one(file, size, channels) for name in sorted(files) for file in files[name]]
    return {"images": np.stack(images)}


def _decode_one(file: Path, size: int, channels: int) -> NDArray[np.uint8]:
    try:
        with Image.open(file, formats=FORMATS) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB" if channels == 3 else "L")
            square = ImageOps.fit(upright, (size, size), Image.Resampling.LANCZOS)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{file}: not a readable image ({error})") from None
    return np.asarray(square).reshape(size, size, channels).transpose(2, 0, 1)

"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each (Lake, Salakhutdinov and Tenenbaum, Science 2015).

Source: github.com/brendenlake/omniglot, MIT licence. The two official zips are decoded once to 28×28 pixels with bright ink (dark
in the files); inputs are (1, 28, 28) in [0, 1].

Splits: `vinyals`, 1,028 / 172 / 423 characters (Vinyals et al. 2016, the lists released with prototypical networks), or `maml`,
1,100 / 100 / 423 at random, as in MAML's code.
"""

import io
import re
import zipfile
import zlib
from collections import Counter
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from metarun.config import ConfigError, require
from metarun.data import archives
from metarun.data.classes import Classes, Numbers, stage_splits
from metarun.data.images import ImageData, Rotations
from metarun.data.source import Split, task_shapes
from metarun.rng import derive

URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
ARCHIVES = {  # published MD5 of the official container, and characters inside
    "images_background": ("68d2efa1b9178cc56df9314c21c6e718", 964),
    "images_evaluation": ("6b91aef0f799c5bb55b94e3f2daec811", 659),
}
DRAWERS = 20
SIDE = 28
MOST = 2**26
"""Largest total size in bytes of an archive's drawings; official ones have about 250 bytes each."""
DECODING = "v1"
"""Version of the decoding, to be raised whenever decoded pixels change, so that older caches are not used."""


class Omniglot(ImageData):
    """Tasks over handwritten characters.

    Args:
        seed: of the tasks.
        root: folders with `omniglot/images_*.zip`; null: `METARUN_DATA`, else the user's data folder.
        split: "vinyals" or "maml".
        split_seed: of the "maml" split.
        resize: "nearest" (binary images, as the releases of MAML, Reptile and ProtoNet train on) or "antialias" (grey images,
            scaled by Pillow's Lanczos filter, as the release of iMAML does).
        test_split: a test task takes its characters from all alphabets ("any_alphabets"), or upright from a single one
            ("within_alphabet", as in the test of Lake et al.).
        rotations: quarter turns as additional classes in every split ("classes", as ProtoNet) or in training only
            ("train_classes", as Reptile), drawn for each class of each task ("task", as MAML), or "none".
        ways, shots, queries: classes of a test task, support examples and queries per class.
        train_ways, train_shots, train_queries: the same for training tasks; null: as for test tasks.
        stages: number of stages; each has its share of all characters, a fifth of them for validation and a fifth for the test.
            null: one stage with the split ``split``.
        stage_by: stages are groups of alphabets in the archives' order ("alphabet"), or of random characters ("random").
    """

    default_stages = 5

    def __init__(
        self,
        seed: int,
        *,
        root: str | None = None,
        split: Literal["vinyals", "maml"] = "vinyals",
        split_seed: int = 1,
        resize: Literal["nearest", "antialias"] = "nearest",
        test_split: Literal["any_alphabets", "within_alphabet"] = "any_alphabets",
        rotations: Rotations = "classes",
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        train_ways: int | None = None,
        train_shots: int | None = None,
        train_queries: int | None = None,
        stages: int | None = None,
        stage_by: Literal["alphabet", "random"] = "alphabet",
    ) -> None:
        decoded = archives.cached(f"omniglot-{SIDE}-{resize}-{DECODING}", {"images", "characters"}, lambda: decode(root, resize))
        names = [str(name) for name in decoded["characters"]]
        characters = vinyals_split(names) if split == "vinyals" else random_split(len(names), split_seed)
        groups = None
        if test_split == "within_alphabet":
            require(stages is None, "test_split", test_split, "any_alphabets if there are stages")
            runs = [run for run in (np.intersect1d(of, characters["test"]) for of in alphabets(names)) if len(run) >= ways]
            require(bool(runs), "ways", ways, "at most the number of test characters of an alphabet")
            characters["test"], groups = np.concatenate(runs), [len(run) for run in runs]
        blocks = (alphabets(names), "alphabets") if stage_by == "alphabet" else (None, "group")
        super().__init__(
            "omniglot",
            seed,
            torch.from_numpy(decoded["images"]),
            Classes.of_sizes([DRAWERS] * len(names)),
            {"omniglot": characters} if stages is None else stage_splits(len(names), stages, seed, *blocks),
            *task_shapes(ways, shots, queries, train_ways, train_shots, train_queries),
            rotations=rotations,
            test_groups=groups,
        )


def alphabets(names: list[str]) -> list[Numbers]:
    """Indices into ``names`` of the characters of each alphabet, in the order of the names."""
    of = [name.partition("/")[0] for name in names]
    return [np.flatnonzero(np.array(of) == alphabet) for alphabet in dict.fromkeys(of)]


def vinyals_split(names: list[str]) -> dict[Split, Numbers]:
    """Indices into ``names`` (`Alphabet/characterNN`) of the characters of each split."""
    index = {name: i for i, name in enumerate(names)}
    lists = resources.files("metarun.data") / "splits" / "omniglot_vinyals"
    return {
        split: np.array([index[name] for name in (lists / f"{split}.txt").read_text().split()])
        for split in ("train", "val", "test")
    }


def random_split(characters: int, seed: int) -> dict[Split, Numbers]:
    """1,100 / 100 / the rest, at random."""
    order = np.random.default_rng(derive(seed, "omniglot split")).permutation(characters)
    return {"train": order[:1100], "val": order[1100:1200], "test": order[1200:]}


def decode(root: str | None, resize: str) -> dict[str, NDArray[np.generic]]:
    """All images (32460, 1, 28, 28) uint8 with bright ink, ordered by character, and the characters' names (1623,)."""
    images, characters = [], []
    for name, (md5, count) in ARCHIVES.items():
        path = archives.find(root, "omniglot", f"{name}.zip", f"{URL}{name}.zip", md5)
        for character, drawings in read_archive(path, name, count, resize).items():
            characters.append(character)
            images.append(drawings)
    return {"images": np.concatenate(images)[:, None], "characters": np.array(characters)}


def read_archive(path: Path, name: str, count: int, resize: str) -> dict[str, NDArray[np.uint8]]:
    """The drawings (20, 28, 28) of each character in an official zip, whatever the checksum of the file.

    Raises:
        ConfigError: the file is not a zip, or does not contain ``count`` characters with 20 images of 105×105 pixels each.
    """
    member = re.compile(rf"{name}/([^/]+/character\d\d)/\d{{4}}_(\d\d)\.png")
    try:
        with zipfile.ZipFile(path) as archive:
            archives.check_zip(path, archive, MOST)
            files = sorted((m[1], m[2], m[0]) for m in map(member.fullmatch, archive.namelist()) if m)
            per_character = Counter(character for character, _, _ in files)
            wrong = [c for c, n in per_character.items() if n != DRAWERS]
            if len(per_character) != count or wrong:
                detail = f", {wrong[0]} has {per_character[wrong[0]]} images" if wrong else ""
                raise ConfigError(
                    f"{path}: expected {count} characters with {DRAWERS} images each, found {len(per_character)} characters{detail}"
                )
            drawings: dict[str, list[NDArray[np.uint8]]] = {}
            for character, _, file in files:
                drawings.setdefault(character, []).append(_drawing(archive.read(file), f"{path}: {file}", resize))
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise ConfigError(f"{path}: not a readable zip archive ({error}); delete it to download it again") from None
    return {character: np.stack(images) for character, images in drawings.items()}


def _drawing(content: bytes, where: str, resize: str) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            if image.size != (105, 105):
                raise ConfigError(f"{where}: expected 105×105 pixels, found {image.size[0]}×{image.size[1]}")
            grey = image.convert("L")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{where}: not a readable PNG ({error})") from None
    kind = Image.Resampling.NEAREST if resize == "nearest" else Image.Resampling.LANCZOS
    return 255 - np.asarray(grey.resize((SIDE, SIDE), kind))

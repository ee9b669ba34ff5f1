"""CIFAR-100 (Krizhevsky, 2009): 60,000 photographs of 32×32 pixels, 600 in each of 100 classes of 20 superclasses.

Source: www.cs.toronto.edu/~kriz/cifar.html; the release states no licence and asks for a citation. Read from the official
`cifar-100-binary.tar.gz`, with the training and test images of a class together, as the few-shot splits (`cifarfs.py`,
`fc100.py`) require; inputs (3, 32, 32) in [0, 1].
"""

from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarun.config import ConfigError, require
from metarun.data import archives
from metarun.data.classes import Classes, Numbers
from metarun.data.source import Split, task_shapes
from metarun.data.stream import ImageStream, Sampling, Scenario
from metarun.rng import derive

ARCHIVE = "cifar-100-binary.tar.gz"
URL = f"https://www.cs.toronto.edu/~kriz/{ARCHIVE}"
MD5 = "03b5dce01913d631647c71ecec9e9cb8"
RECORD = 2 + 3 * 32 * 32  # superclass, class, then red, green and blue planes
MEMBERS = {"train.bin": 500, "test.bin": 100}
"""Files in the archive, and their number of images per class."""
NAMES = "fine_label_names.txt"
CLASSES = 100
VALIDATION = 50
"""Number of training images per class that are held out for validation."""
DECODING = "v1"


class CIFAR100(ImageStream):
    """Few-shot tasks over the 100 classes, or streams of images; training and test have the same classes but different images.

    Of the 500 training images per class, the last 50 are for validation; the 100 test images are for the test.

    Args:
        seed: of the tasks and of random stages.
        root: folders with `cifar100/cifar-100-binary.tar.gz`; null: `METARUN_DATA`, else the user's data folder.
        ways, shots, queries: classes of a test task, support examples and queries per class.
        train_ways, train_shots, train_queries: the same for training tasks; null: as for test tasks.
        stages: number of stages among which the classes are divided; null: one.
        stage_by: stages are groups of superclasses ("superclass") or of random classes ("random").
        scenario: "task", "domain" or "class": a stream of single images, see `metarun.data.stream`; null: few-shot tasks.
        sampling: order of a stream's training examples, "epochs" or "uniform".
    """

    default_stages = 10

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
        stage_by: Literal["superclass", "random"] = "random",
        scenario: Scenario | None = None,
        sampling: Sampling = "epochs",
    ) -> None:
        decoded = load(root)
        most = 20 if stage_by == "superclass" else CLASSES
        require(stages is None or 0 < stages <= most, "stages", stages, f"1 to {most}, or null")
        order = np.concatenate(decoded.superclasses())
        if stage_by == "random":
            order = np.random.default_rng(derive(seed, "stages")).permutation(CLASSES)
        per_block = CLASSES // most
        groups = [g.ravel() for g in np.array_split(order.reshape(-1, per_block), stages or 1)]
        parts: dict[str, dict[Split, Numbers]] = {}
        for i, group in enumerate(groups):
            name = "cifar100" if len(groups) == 1 else f"group {i + 1}"
            parts[name] = {"train": group, "val": group + CLASSES, "test": group + 2 * CLASSES}
        train, test = MEMBERS.values()
        cuts = torch.tensor([0, train - VALIDATION, train, train + test])
        first = torch.arange(CLASSES) * (train + test)
        super().__init__(
            "cifar100",
            seed,
            decoded.images,
            Classes((first + cuts[:3, None]).flatten(), cuts.diff().repeat_interleave(CLASSES)),
            parts,
            *task_shapes(ways, shots, queries, train_ways, train_shots, train_queries),
            scenario=scenario,
            sampling=sampling,
        )


@dataclass(frozen=True)
class Decoded:
    """All images (60000, 3, 32, 32) uint8, ordered by class, the names of the classes, and the superclass of each, 0 to 19."""

    images: Tensor
    names: list[str]
    superclass: Numbers

    def split(self, name: str) -> dict[Split, Numbers]:
        """The classes of each split, from the split lists ``name`` of the package."""
        lists = resources.files("metarun.data") / "splits" / name
        return {
            which: np.array([self.names.index(of) for of in (lists / f"{which}.txt").read_text().split()])
            for which in ("train", "val", "test")
        }

    def superclasses(self) -> list[Numbers]:
        """The classes of each superclass."""
        return [np.flatnonzero(self.superclass == number) for number in range(20)]


def load(root: str | None) -> Decoded:
    """The decoded data set, from the cache, or from the archive, which is downloaded if it is missing."""
    decoded = archives.cached(
        f"cifar100-{DECODING}",
        {"images", "names", "superclass"},
        lambda: decode(archives.find(root, "cifar100", ARCHIVE, URL, MD5), dict(MEMBERS)),
    )
    superclass = decoded["superclass"].astype(np.int64)
    return Decoded(torch.from_numpy(decoded["images"]), [str(name) for name in decoded["names"]], superclass)


def decode(path: Path, members: dict[str, int]) -> dict[str, NDArray[np.generic]]:
    """Images, ordered by class, and names, from the official archive, whatever the checksum of the file.

    Args:
        path: of the archive.
        members: its files of records, with their number of images per class.

    Raises:
        ConfigError: the file is not that archive, or is incomplete.
    """
    sizes = {name: count * CLASSES * RECORD for name, count in members.items()}
    contents = archives.read_tar(path, {**sizes, NAMES: 10_000})
    for name in (*members, NAMES):
        if name not in contents:
            raise ConfigError(f"{path}: expected the archive {ARCHIVE} of CIFAR-100, found no {name} in it")
    records = [_records(contents[name], path, name, count) for name, count in members.items()]
    names = contents[NAMES].decode(errors="replace").split()
    if len(names) != CLASSES:
        raise ConfigError(f"{path}: {NAMES}: expected {CLASSES} names, found {len(names)}")
    joined = np.concatenate(records)
    order = np.argsort(joined[:, 1], kind="stable")
    images = joined[order, 2:].reshape(-1, 3, 32, 32)
    return {"images": images, "names": np.array(names), "superclass": joined[order[:: len(joined) // CLASSES], 0]}


def _records(content: bytes, path: Path, name: str, per_class: int) -> NDArray[np.uint8]:
    expected = per_class * CLASSES * RECORD
    if len(content) != expected:
        raise ConfigError(f"{path}: {name}: expected {expected:,} bytes, found {len(content):,}")
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    counts = np.bincount(records[:, 1], minlength=CLASSES)
    if len(counts) != CLASSES or (counts != per_class).any():
        wrong = int(np.flatnonzero(counts != (per_class if len(counts) == CLASSES else 0))[-1])
        raise ConfigError(f"{path}: {name}: expected {per_class} images of each class, found {counts[wrong]} of class {wrong}")
    return records

"""A sequence of data sets as stages (as in Bayesian online meta-learning, Yap, Ritter and Barber, ICML 2021)."""

from typing import Any

import torch
from omegaconf import OmegaConf

from metarun.build import build
from metarun.config import CONFIGS, ConfigError, nearest, require
from metarun.data.images import ImageData
from metarun.data.source import Data, Split, Stage, numbered, task_shapes
from metarun.episodes import TaskSpec
from metarun.kinds import CLASSIFICATION
from metarun.rng import derive


class Sequence(Data):
    """Image data sets in sequence, each one or more stages, with a common image size, number of channels, ways and shots.

    Args:
        seed: of the tasks.
        of: names of the data sets, as for `data=`. A repeated data set has the same classes but new tasks.
        options: keys of individual data sets, by name: `data.options.omniglot.rotations=none`.
        root: data root for all of them; null: `METARUN_DATA`, else the user's data folder.
        size: side of the images in pixels; images of other sizes are scaled bilinearly.
        channels: 3, with grey images repeated over three channels; or 1, the mean of the colours.
        ways, shots, queries: classes of a test task, support examples and queries per class.
        train_ways, train_shots, train_queries: the same for training tasks; null: as for test tasks.

    Raises:
        ConfigError: a name is not that of an image data set.
    """

    def __init__(
        self,
        seed: int,
        *,
        of: tuple[str, ...],
        options: dict[str, dict[str, Any]] | None = None,
        root: str | None = None,
        size: int = 28,
        channels: int = 3,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        train_ways: int | None = None,
        train_shots: int | None = None,
        train_queries: int | None = None,
    ) -> None:
        require(bool(of), "of", list(of), "names of data sets")
        require(size > 0, "size", size, "1 or more pixels")
        require(channels in (1, 3), "channels", channels, "3 or 1")
        self.train, self.test = task_shapes(ways, shots, queries, train_ways, train_shots, train_queries)
        shape: dict[str, int | None] = {"ways": ways, "shots": shots, "queries": queries}
        shape |= {
            f"train_{key}": value for key, value in (("ways", train_ways), ("shots", train_shots), ("queries", train_queries))
        }
        options = options or {}
        for name in options:
            if name not in of:
                raise ConfigError(f"data.options.{name}: not among data.of{nearest(name, of)}")
        shipped = {path.stem for path in (CONFIGS / "data").glob("*.yaml")} - {"sequence"}
        self.sets: list[ImageData] = []
        for name in of:
            if name not in shipped:
                raise ConfigError(f"data.of={name}: no such data set{nearest(name, shipped)}")
            keys: Any = OmegaConf.to_container(OmegaConf.load(CONFIGS / "data" / f"{name}.yaml"))
            keys.pop("defaults", None)
            common = {"root": root} if "root" in keys else {}
            options_of = {**keys, **common, **shape, **options.get(name, {})}
            data: ImageData = build(options_of, seed, key=f"data.options.{name}", kind=ImageData)
            data.bring((channels, size, size))
            self.sets.append(data)
        self.repeats = [of[:place].count(name) for place, name in enumerate(of)]
        """For each data set, the number of times that it has occurred before; a repetition has other tasks of the same classes."""
        self.redraw(seed)
        in_training = sum(data.spec.train_classes or 0 for data in self.sets)
        self.spec = TaskSpec(CLASSIFICATION, (channels, size, size), ways, train_ways or ways, "sequence", in_training)

    def stages(self, device: torch.device) -> list[Stage]:
        stages: list[Stage] = []
        first = 0
        for data in self.sets:
            stages += data.stages(device, first)
            first += data.spec.train_classes or 0
        return numbered(stages)

    def redraw(self, seed: int) -> None:
        for repeat, data in zip(self.repeats, self.sets, strict=True):
            data.redraw(derive(seed, "again", repeat) if repeat else seed)

    def members(self, split: Split) -> dict[str, list[tuple[int, int]]]:
        images: dict[str, list[tuple[int, int]]] = {}
        for data in self.sets:
            for name, intervals in data.members(split).items():
                images.setdefault(name, []).extend(intervals)
        return images

"""Whole data sets one after another as stages (as in Bayesian online meta-learning, Yap, Ritter and Barber, ICML 2021)."""

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
    """Image data sets in a row, each a stage (or several), brought to one size, number of channels, ways and shots.

    Args:
        seed: of the tasks.
        of: the data sets, by the names that `data=` knows. One that comes again has the same classes and new tasks.
        options: keys of a data set's own, by its name: `data.options.omniglot.rotations=none`.
        root: of all of them; null: `METARUN_DATA`, else the user's data folder.
        size: side of an image, in pixels; other images are scaled, bilinear.
        channels: 3, grey images in three equal ones; or 1, the mean of the colours.
        ways, shots, queries: classes of a test task, support examples and queries of each.
        train_ways, train_shots, train_queries: the same in training; null: as in the test.

    Raises:
        ConfigError: a name that is no data set of images.
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
            own = {"root": root} if "root" in keys else {}
            options_of = {**keys, **own, **shape, **options.get(name, {})}
            made: ImageData = build(options_of, seed, key=f"data.options.{name}", kind=ImageData)
            made.bring((channels, size, size))
            self.sets.append(made)
        self.again = [of[:place].count(name) for place, name in enumerate(of)]
        """How many times each has come before; then it has other tasks of the same classes."""
        self.redraw(seed)
        in_training = sum(data.spec.train_classes or 0 for data in self.sets)
        self.spec = TaskSpec(CLASSIFICATION, (channels, size, size), ways, train_ways or ways, "sequence", in_training)

    def stages(self, device: torch.device) -> list[Stage]:
        made: list[Stage] = []
        first = 0
        for data in self.sets:
            made += data.stages(device, first)
            first += data.spec.train_classes or 0
        return numbered(made)

    def redraw(self, seed: int) -> None:
        for again, data in zip(self.again, self.sets, strict=True):
            data.redraw(derive(seed, "again", again) if again else seed)

    def members(self, split: Split) -> dict[str, list[tuple[int, int]]]:
        found: dict[str, list[tuple[int, int]]] = {}
        for data in self.sets:
            for name, runs in data.members(split).items():
                found.setdefault(name, []).extend(runs)
        return found

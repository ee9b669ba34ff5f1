"""The sweeps of `configs/table/`, which define the runs of each table. Imports no torch."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import yaml

from metarun.config import CONFIGS, ConfigError, nearest

Grid = dict[str, list[str]]
"""Values by key; every combination is a run."""


@dataclass(frozen=True)
class Sweep:
    """The content of a table's file.

    Attributes:
        name: of the file.
        title: its first comment.
        grids: what is swept over, except the seed.
        data: the data set of all runs; None: the grids choose it.
    """

    name: str
    title: str
    grids: list[Grid]
    data: str | None

    @property
    def keys(self) -> list[str]:
        """The keys that distinguish cells: those with several values in a grid, and groups; `cl` comes last."""
        keys = dict.fromkeys(
            key for grid in self.grids for key, values in grid.items() if len(values) > 1 or (CONFIGS / key).is_dir()
        )
        return sorted(keys, key=lambda key: key == "cl")

    def cells(self) -> Iterator[tuple[tuple[str, ...], dict[str, str]]]:
        """Each cell's values of `keys`, and the other overrides, which all of its runs share."""
        for grid in self.grids:
            common = {key: values[0] for key, values in grid.items() if key not in self.keys}
            for values in product(*(grid.get(key, [""]) for key in self.keys)):
                yield values, common


def names() -> list[str]:
    """The names of all tables."""
    return sorted(path.stem for path in (CONFIGS / "table").glob("*.yaml"))


def read(name: str) -> Sweep:
    """The sweep of the table ``name``.

    Raises:
        ConfigError: there is no such table.
    """
    if name not in names():
        raise ConfigError(f"table={name}: no such table{nearest(name, names())}")
    text = (CONFIGS / "table" / f"{name}.yaml").read_text()
    content = yaml.safe_load(text)
    title = next(line.lstrip("# ") for line in text.splitlines() if line.startswith("#") and not line.startswith("# @"))
    params = content["hydra"]["sweeper"]["params"]
    grids = [params] if isinstance(params, Mapping) else params
    data = next((entry["override /data"] for entry in content.get("defaults", []) if "override /data" in entry), None)
    return Sweep(name, title, [_grid(grid) for grid in grids], data)


def published_name(data: str | None, overrides: Mapping[str, str]) -> str:
    """The name in published.yaml of the cell with ``overrides`` on ``data``, such as `split_mnist_class_ewc`."""
    return overrides.get("paper") or "_".join(filter(None, (data, overrides.get("data.scenario"), overrides.get("cl"))))


def _grid(params: Mapping[str, Any]) -> Grid:
    return {key.lstrip("+"): _values(values) for key, values in params.items() if key != "seed"}


def _values(values: Any) -> list[str]:
    return ["null"] if values is None else str(values).replace(" ", "").split(",")

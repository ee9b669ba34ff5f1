"""The canvas of all figures: panels, line styles, colours, and PNG files."""

import logging
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from metarun.files import replacing
from metarun.metric import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it logs the fonts it loads

Numbers = NDArray[np.float64]

INK, GUIDE = "#222222", "#cccccc"
COLOURS = ("#bbbbbb", "#7fb3d5", "#2471a3", "#c0392b")
LINE = {"color": COLOURS[3], "linewidth": 1}
CURVE = LINE | {"marker": "o", "markersize": 3}
INTERVALS = CURVE | {"capsize": 2}
BAND = {"alpha": 0.2, "linewidth": 0}
DOTTED = {"color": INK, "linewidth": 1, "linestyle": ":"}
SMALL: dict[str, Any] = {"fontsize": 8}
SLANTED = SMALL | {"rotation": 30, "ha": "right"}
LEGEND = {"fontsize": 7, "frameon": False}
BESIDE = LEGEND | {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)}
"""Style of a legend to the right of its panel."""


def new_figure(columns: int, rows: int, *, width: float, height: float = 3.2) -> "tuple[Figure, Any]":
    """A figure and its axes, (columns,) for one row, else (rows, columns); ``width`` and ``height`` of a panel in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color=GUIDE, linewidth=0.4)
        ax.set_axisbelow(True)
    return figure, axes[0] if rows == 1 else axes


def save(figure: "Figure", path: Path) -> None:
    """Write a PNG to ``path``."""
    layout = figure.get_layout_engine()
    if layout is not None:  # lay out once; saving would do it twice, which takes most of the time
        layout.execute(figure)
        figure.set_layout_engine("none")
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=120)


def close(figure: "Figure") -> None:
    """Free a figure's memory."""
    figure.clear()


def wrapped(text: str, width: int) -> str:
    """The text with lines longer than ``width`` wrapped."""
    return "\n".join(part for line in text.splitlines() for part in textwrap.wrap(line, width) or [""])


def colour_map(metric: Metric) -> str:
    """A colour map that is brightest for the best scores."""
    return "viridis" if metric.higher_is_better else "viridis_r"


def colour_scale(count: int) -> list[Any]:
    """``count`` colours evenly spaced along one scale."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.9 * i / max(count - 1, 1)) for i in range(count)]

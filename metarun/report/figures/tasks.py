"""Tasks: fitted curves, examples, and task vectors."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metarun.report.figures.canvas import BESIDE, COLOURS, DOTTED, INK, LEGEND, SMALL, Numbers, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Fit(NamedTuple):
    """One curve task: support points, true curve, and predictions at the inputs of the true curve, by inner step."""

    shots: int
    support_x: Numbers
    support_y: Numbers
    x: Numbers
    y: Numbers
    predictions: dict[int, Numbers]


def fits(examples: Sequence[Fit]) -> "Figure":
    """One panel per number of shots: true curve, support points, and prediction after each number of inner steps."""
    figure, axes = new_figure(len(examples), 1, width=4.0)
    for ax, fit in zip(axes, examples, strict=True):
        ax.plot(fit.x, fit.y, label="truth", **DOTTED)
        several = len(fit.predictions) > 1
        for colour, (step, values) in zip(COLOURS, fit.predictions.items(), strict=False):
            label = f"{step} steps" if step != 1 else "1 step"
            ax.plot(fit.x, values, color=colour if several else COLOURS[-1], label=label if several else "prediction")
        ax.plot(fit.support_x, fit.support_y, "o", color=INK, markersize=4, label="support")
        ax.set_title(f"{fit.shots} shots", **SMALL)
        ax.set_xlabel("x")
        margin = 0.4 * max(float(np.ptp(fit.y)), 1e-3)
        ax.set_ylim(float(fit.y.min()) - margin, float(fit.y.max()) + margin)
    axes[0].set_ylabel("y")
    axes[-1].legend(**BESIDE)
    return figure


def tasks(panels: Mapping[str, Any], title: str) -> "Figure":
    """One panel per task, three in a row: a mosaic (height, width, channels), or the support and query points of a curve."""
    rows = -(-len(panels) // 3)
    figure, grid = new_figure(min(len(panels), 3), rows, width=4.5, height=3.0)
    figure.suptitle(title, **SMALL)
    for ax, (name, panel) in zip(np.ravel(grid), panels.items(), strict=False):
        ax.set_title(name, **SMALL)
        if isinstance(panel, np.ndarray):
            ax.imshow(panel, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set_axis_off()
        else:
            for points, marker, label in zip(panel, ("o", "x"), ("support", "query"), strict=True):
                ax.plot(points[:, 0], points[:, 1], marker, color=COLOURS[3] if marker == "o" else COLOURS[2], label=label)
            ax.legend(**LEGEND)
    return figure


def task_vectors(components: Numbers, parameters: Mapping[str, Numbers]) -> "Figure":
    """The first two principal components (tasks, 2 or more) of task vectors; one panel per parameter, which colours the points."""
    figure, axes = new_figure(max(len(parameters), 1), 1, width=4.0)
    for ax in axes:
        ax.set(xlabel="first component")
    if not parameters:
        axes[0].scatter(components[:, 0], components[:, 1], color=COLOURS[2], s=4)
    for ax, (name, values) in zip(axes, parameters.items(), strict=False):
        points = ax.scatter(components[:, 0], components[:, 1], c=values, s=4, cmap="viridis")
        figure.colorbar(points, ax=ax, label=name)
    axes[0].set_ylabel("second component")
    return figure

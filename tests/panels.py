"""What the panels of a figure show: their lines, bars, bands and labels."""

import numpy as np
from matplotlib.container import ErrorbarContainer

TIMES = [[0.1, 0.2], [0.9, 0.3], [0.5, 0.8]]
"""R of two stages: untrained, after the first, after the second."""
X = np.array([1.0, 2.0])


def lines(ax):
    """The lines of a panel by label: their points (n, 2)."""
    return {line.get_label(): np.column_stack([line.get_xdata(), line.get_ydata()]).tolist() for line in ax.get_lines()}


def labels(ax):
    return ax.get_xlabel(), ax.get_ylabel()


def label_of(container):
    """Its label, empty where it has none and is in no legend."""
    label = container.get_label() or ""
    return "" if label.startswith("_") else label


def bars(ax):
    """The error bars of a panel by label: (x, y), and the ends of the bars."""
    found = {}
    for container in ax.containers:
        assert isinstance(container, ErrorbarContainer)
        points, _, ends = container
        (x, y) = points.get_data()
        segments = [segment.tolist() for end in ends for segment in end.get_segments()]
        found.setdefault(label_of(container), []).append((list(x), list(y), segments))
    return found


def band(ax, place=0):
    """The lowest and highest value of a filled band."""
    vertices = ax.collections[place].get_paths()[0].vertices
    return vertices[:, 1].min(), vertices[:, 1].max()


def row(step, mean, ci95=0.01):
    return {"step": step, "mean": mean, "ci95": ci95}

"""`metarun show`: draws a few tasks as the algorithm sees them."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor

from metarun.build import build
from metarun.data.source import Data
from metarun.episodes import Episodes
from metarun.report import figures

TASKS, EXAMPLES = 3, 50
MOST_WAYS, MOST_IMAGES = 10, 10


def show(config: DictConfig, name: str) -> dict[Path, str]:
    """Draw the first training and test tasks of each stage, to ``outputs/show/<name>-<stage>.png`` → the files and stages."""
    data: Data = build(config.data, config.seed, key="data", kind=Data)
    classes = data.spec.kind.classes
    written = {}
    stages = data.stages(torch.device("cpu"))
    for number, stage in enumerate(stages):
        panels: dict[str, Any] = {}
        for split, source in (("training", stage.train), ("test", stage.test)):
            if data.spec.examples:
                x = as_images(source.sample(torch.arange(EXAMPLES)).query.x[:, 0])
                panels[f"{split} examples"] = grid(x.view(-1, MOST_IMAGES, *x.shape[1:]))
                continue
            episodes = source.sample(torch.arange(TASKS))
            for i, task in enumerate(episodes.split(1)):
                panels[f"{split} task {i}"] = mosaic(task) if classes else points(task)
        path = Path("outputs/show") / (f"{name}-{number}.png" if len(stages) > 1 else f"{name}.png")
        parts = ": support, then queries" if classes and not data.spec.examples else ""
        picture = figures.tasks(panels, f"{stage.name}{parts}")
        figures.save(picture, path)
        figures.close(picture)
        written[path] = stage.name
    return written


def mosaic(task: Episodes) -> NDArray[np.float64]:
    """One task: a row for each class, its support examples, a gap, its queries → (height, width, channels) in [0, 1]."""
    ways = task.support.ways or 1
    parts = []
    shown = as_images(torch.cat([task.support.x[0], task.query.x[0]]))
    for x in shown.split([task.support.x.shape[1], task.query.x.shape[1]]):
        parts.append(grid(x.reshape(ways, -1, *x.shape[1:])[:MOST_WAYS, :MOST_IMAGES]))  # image tasks are ordered by class
    gap = np.full((parts[0].shape[0], max(1, x.shape[-1] // 4), parts[0].shape[2]), 0.5)
    return np.concatenate([parts[0], gap, parts[1]], axis=1)


def as_images(x: Tensor) -> Tensor:
    """Examples (n, *input_shape) → (n, C, H, W) in [0, 1]: images as they are, other numbers as shades between their extremes.

    A vector is one row of pixels, a sequence of vectors a row for each.
    """
    if x.dim() == 4:
        return x
    rows = x.reshape(len(x), 1, -1, x.shape[-1]).double()
    low, high = rows.amin(), rows.amax()
    return (rows - low) / (high - low).clamp(min=1e-12)


def grid(images: Tensor) -> NDArray[np.float64]:
    """``images`` (rows, columns, C, H, W) side by side → (height, width, channels) in [0, 1]."""
    rows, columns, channels, height, width = images.shape
    joined = images.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width, channels)
    array: NDArray[np.float64] = joined.double().numpy().clip(0, 1)
    return array


def points(task: Episodes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One curve: support points and queries, (n, 2) each."""
    support, query = (torch.cat([part.x[0], part.y[0]], -1).double().numpy() for part in (task.support, task.query))
    return support, query

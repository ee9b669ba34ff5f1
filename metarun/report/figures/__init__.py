"""Figures from plain numbers. Imports no torch; matplotlib is imported only when a figure is drawn, and no window is opened."""

from metarun.report.figures.canvas import close, save
from metarun.report.figures.comparison import beside_published, curves
from metarun.report.figures.learning import adaptation_curve, by_length, learning_curve, presentations
from metarun.report.figures.streams import online, stage_curves, stage_matrices, stage_matrix
from metarun.report.figures.tasks import Fit, fits, task_vectors, tasks

__all__ = [
    "Fit",
    "adaptation_curve",
    "beside_published",
    "by_length",
    "close",
    "curves",
    "fits",
    "learning_curve",
    "online",
    "presentations",
    "save",
    "stage_curves",
    "stage_matrices",
    "stage_matrix",
    "task_vectors",
    "tasks",
]

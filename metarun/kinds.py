"""Kinds of task: what a label is, which loss trains on it, and which score tests it."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from metarun.metric import ACCURACY, MSE, Metric


class Kind(ABC):
    """A kind of task. Two kinds are equal if they are of one class.

    Attributes:
        name: in messages and results.json.
        metric: what a test reports.
        classes: whether labels are classes (T, n), int64, and not targets (T, n, d).
    """

    name: ClassVar[str]
    metric: ClassVar[Metric]
    classes: ClassVar[bool]

    @abstractmethod
    def losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Mean loss of each task, (T,), for outputs (T, n, outputs) and labels ``y``; differentiable twice."""

    @abstractmethod
    def scores(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The metric of each task, (…, T), for outputs (…, T, n, outputs); NaN or infinite where an output is not finite."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other)

    def __hash__(self) -> int:
        return hash(type(self))


class Regression(Kind):
    """Targets (T, n, d), learned by their squared error."""

    name = "regression"
    metric = MSE
    classes = False

    def losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(outputs, y, reduction="none").flatten(1).mean(1)

    def scores(self, outputs: Tensor, y: Tensor) -> Tensor:
        return (outputs - y).square().flatten(-2).mean(-1)


class Classification(Kind):
    """Classes (T, n), learned by the cross entropy of logits (T, n, outputs)."""

    name = "classification"
    metric = ACCURACY
    classes = True

    def losses(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs.flatten(0, 1), y.flatten(), reduction="none").view(y.shape).mean(1)

    def scores(self, outputs: Tensor, y: Tensor) -> Tensor:
        return if_finite((outputs.argmax(-1) == y).float().mean(-1), outputs)


REGRESSION, CLASSIFICATION = Regression(), Classification()

KNOWN: dict[str, Kind] = {kind.name: kind for kind in (REGRESSION, CLASSIFICATION)}


def if_finite(scores: Tensor, outputs: Tensor) -> Tensor:
    """``scores`` (…, T), NaN for tasks with an output (…, T, n, outputs) that is not finite: its argmax means nothing."""
    return scores.masked_fill(~outputs.isfinite().flatten(-2).all(-1), torch.nan)

"""Example predictions of a regression learner on a few tasks, before and after it adapts."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metarun.algo.algorithm import Algorithm
from metarun.data.source import Data
from metarun.report.figures import Fit
from metarun.trainer.evaluation import testing

SHOTS = (5, 10, 20)
STEPS = (0, 1, 5, 10)


def adaptation_examples(algorithm: Algorithm, data: Data, device: torch.device) -> list[Fit]:
    """One task with 5, 10 and 20 support points, and predictions after 0, 1, 5 and 10 inner steps.

    Empty if the data cannot be drawn as a curve. A learner without inner steps has one prediction.
    """
    fits = []
    for shots in SHOTS:
        episodes = data.curve(shots, device)
        if episodes is None:
            return []
        with testing(algorithm):
            path = algorithm.predictions(episodes, max(STEPS))
        support, query = episodes.support, episodes.query
        predictions = {step: _column(at) for step, at in zip(algorithm.eval_steps(max(STEPS)), path, strict=False) if step in STEPS}
        fits.append(Fit(shots, _column(support.x), _column(support.y), _column(query.x), _column(query.y), predictions))
    return fits


def _column(values: Tensor) -> NDArray[np.float64]:
    return values.double().cpu().flatten().numpy()

"""Predictions worth a look: what a regression learner makes of a few tasks, before and after it adapts."""

import torch

from metarun.algo.algorithm import Algorithm
from metarun.data.source import Data
from metarun.report.figures import Fit
from metarun.trainer.evaluation import testing

SHOTS = (5, 10, 20)
STEPS = (0, 1, 5, 10)


def adaptation_examples(algorithm: Algorithm, data: Data, device: torch.device) -> list[Fit]:
    """The first test task with 5, 10 and 20 support points and predictions after 0, 1, 5 and 10 inner steps.

    Nothing where the data cannot be drawn as a curve. A learner without steps has one prediction.
    """
    fits = []
    for shots in SHOTS:
        episodes = data.curve(shots, device)
        if episodes is None:
            return []
        with testing(algorithm):
            path = algorithm.trajectory(episodes.support, episodes.query.x, max(STEPS))
        shown = [step for step in STEPS if step < len(path)]
        columns = [t.double().cpu().flatten().numpy() for t in (*episodes.support[:2], *episodes.query[:2])]
        fits.append(Fit(shots, *columns, {step: path[step].double().cpu().flatten().numpy() for step in shown}))
    return fits

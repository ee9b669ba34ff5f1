"""The order of the stages, see `metarun.trainer.settings.Order`."""

import numpy as np

from metarun.report.statistics import over_tasks
from metarun.rng import derive
from metarun.tracking import Log
from metarun.trainer.runstate import RunState
from metarun.trainer.settings import Settings
from metarun.trainer.tester import Tester, nan_for_none


class StageOrder:
    """Decides which stages come next: at the start, or at every boundary if `order` is "active".

    Args:
        settings: for `order` and `seed`.
        state: of the run, whose stages are put in order.
        tester: scores the learner.
        log: for the scores that decide.
    """

    def __init__(self, settings: Settings, state: RunState, tester: Tester, log: Log) -> None:
        self.settings, self.state, self.tester, self.log = settings, state, tester, log

    def arrange(self, first: int) -> None:
        """Decide which stages come from place ``first`` on."""
        how, order = self.settings.order, self.state.position.order
        if how == "given" or (first and how != "active") or len(order) - first < 2:
            return
        coming = order[first:]
        if how == "random":
            coming = np.random.default_rng(derive(self.settings.seed, "order")).permutation(coming).tolist()
        else:
            score = {order[place]: self.score(place) for place in range(first, len(order))}
            coming.sort(key=lambda number: score[number], reverse=how == "easy_first")
        self.state.take(order[:first] + coming)

    def score(self, place: int) -> float:
        """Mean validation score of the learner on the stage at ``place``, the higher the better; -inf if it is not finite."""
        stage, headline = self.state.stages[place], self.tester.headline
        with self.state.method.testing(self.state.algorithm, place):
            scores = self.tester.validation_scores(stage)
        mean = over_tasks(scores[headline.best([scores])])["mean"]
        self.log.scalars(self.state.position.step, {f"order/{stage.name}": nan_for_none(mean)})
        return -float("inf") if mean is None else headline.metric.sign * mean

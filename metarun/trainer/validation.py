"""Validation during training, and the choice of the weights to test."""

import logging

from metarun.data.source import Stage
from metarun.report.statistics import over_tasks
from metarun.tracking import Log
from metarun.trainer.meter import Meter
from metarun.trainer.runstate import RunState
from metarun.trainer.tester import Tester, nan_for_none

log = logging.getLogger(__name__)


class Validation:
    """Scores the learner on validation tasks, logs the mean and offers the weights as the best.

    Args:
        state: of the run.
        tester: scores the learner.
        meter: shows the score; its clock stands still meanwhile.
        log: for the score.
    """

    def __init__(self, state: RunState, tester: Tester, meter: Meter, log: Log) -> None:
        self.state, self.tester, self.meter, self.log = state, tester, meter, log

    def __call__(self, stage: Stage) -> None:
        """Validate on ``stage``. A signal waits for the checkpoint that comes after this."""
        with self.meter.paused():
            self._validate(stage)

    def _validate(self, stage: Stage) -> None:
        headline, step = self.tester.headline, self.state.position.step
        metric = headline.metric
        scores = self.tester.validation_scores(stage, on_chunk=lambda: None)
        place = headline.best([scores])
        result = over_tasks(scores[place])
        mean = result["mean"]
        steps = {"inner_steps": headline.eval_steps[place]} if headline.eval_steps and headline.path else {}
        self.log.scalars(step, {f"val/{metric.name}": nan_for_none(mean)}, ci95=result["ci95"], **steps)
        if mean is not None:
            self.state.best.offer(self.state.algorithm, metric.sign * mean)
        self.meter.show(**{f"val {metric.name}": "not finite" if mean is None else f"{mean:.4g}"})
        if not self.meter.visible:
            log.info("Update %d of %d: validation %s", step, self.state.total, metric.describe(result))

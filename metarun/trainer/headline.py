"""After how many inner steps a run's figures are taken, and which test tasks have diverged by then."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from metarun.algo.algorithm import Algorithm
from metarun.metric import Metric
from metarun.trainer.evaluation import summary

Scores = NDArray[np.float64]
ReportSteps = Literal["auto", "validation", "trained", "last"]

FAR = 10
"""How many times the mean error before adaptation an error is that has diverged."""
NAMED = 10
"""Diverged test tasks that a result names, the worst ones."""


class Headline:
    """The number of inner steps behind the test score, R and what follows from it, and the choice of the weights to test.

    Args:
        how: "validation" takes the number with the best mean on validation, of those that a test looks at; "trained" as many as in
            training, or all where training takes none; "last" all that a test takes. "auto" is "trained" for heavy-tailed metrics
            and "validation" for all others: beyond the steps that training has seen, one task in thousands may diverge, which is
            rarely among the validation tasks and alone decides a mean error.
        algorithm: the learner.

    Attributes:
        looks: the numbers of inner steps that a test looks at; None: the learner takes none.
        chosen_by: "validation", "trained" or "last"; None: the learner takes no inner steps.
        path: whether scores at all looks are needed to choose.
        steps: the number of steps where there is nothing to choose by: all but "validation", and before a validation.
    """

    def __init__(self, how: ReportSteps, algorithm: Algorithm) -> None:
        self.metric = algorithm.spec.kind.metric
        last, trained = algorithm.steps, algorithm.trained_steps
        self.looks = None if last is None else algorithm.eval_steps(last)
        if how == "auto":
            how = "trained" if self.metric.heavy_tailed else "validation"
        if how == "trained" and trained is None:
            how = "last"
        self.chosen_by = None if last is None else how
        self.path = self.chosen_by == "validation"
        self.steps = last if last is None or trained is None or how == "last" else min(trained, last)

    def best(self, stages: Sequence[Scores]) -> int:
        """The place of the best mean among the looks of the validation ``stages``, (looks, tasks) each; of equals the first."""
        means = [summary(*scores)["mean"] for scores in zip(*stages, strict=True)]
        if all(mean is None for mean in means):
            return self.place if self.path else 0
        return max(range(len(means)), key=lambda i: -np.inf if means[i] is None else self.metric.sign * means[i])

    @property
    def place(self) -> int:
        """That of `steps` among the looks."""
        return 0 if self.looks is None or self.steps is None else self.looks.index(self.steps)


def diverged(stages: Mapping[str, Scores], look: int, metric: Metric) -> dict[str, Any] | None:
    """The test tasks that have diverged at ``look``: an error above `FAR` times the stage's mean before adaptation, or not finite.

    Args:
        stages: errors (looks, tasks) by stage, before adaptation at the first look.
        look: the place of the headline's.
        metric: of the errors.

    Returns:
        n: how many; `tasks`: stage, number and error (null: not finite) of the worst `NAMED`; `others`: the mean of all other
        tasks, see `summary`. None where none has diverged.
    """
    bad = {name: ~(scores[look] <= FAR * scores[0].mean(where=np.isfinite(scores[0]))) for name, scores in stages.items()}
    found = [(stages[name][look, i], name, int(i)) for name, of in bad.items() for i in np.flatnonzero(of)]
    if not found:
        return None
    found.sort(key=lambda one: (-np.inf if not np.isfinite(one[0]) else -one[0], one[1:]))
    named = [
        {"stage": name, "task": i, metric.name: float(error) if np.isfinite(error) else None} for error, name, i in found[:NAMED]
    ]
    kept = [stages[name][look][~of] for name, of in bad.items()]
    return {"n": len(found), "tasks": named, "others": summary(*kept) if all(map(len, kept)) else None}

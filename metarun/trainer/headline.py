"""The number of inner steps behind the reported scores, and the test tasks that diverge by then."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from metarun.algo.algorithm import Algorithm
from metarun.metric import Metric
from metarun.report.statistics import over_tasks

Scores = NDArray[np.float64]
ReportSteps = Literal["auto", "validation", "trained", "last"]

FAR = 10
"""A task has diverged if its error is more than this many times the mean error before adaptation."""
NAMED = 10
"""Number of diverged test tasks listed in a result, the worst ones."""


class Headline:
    """Chooses the number of inner steps of the test score, of R and its metrics, and of the scores that select the best weights.

    Args:
        how: "validation": of the numbers that a test evaluates, the one with the best validation mean; "trained": as many as in
            training, or all if training takes none; "last": all that a test takes. "auto" is "trained" for heavy-tailed metrics
            and "validation" for all others: after more steps than in training one task in thousands may diverge, which is rarely
            among the validation tasks and dominates a mean error.
        algorithm: the learner.

    Attributes:
        metric: of the scores.
        eval_steps: the numbers of inner steps that a test evaluates; None: the learner takes none.
        chosen_by: "validation", "trained" or "last"; None: the learner takes no inner steps.
        path: whether the choice needs scores after all `eval_steps`.
        steps: the number of steps if there is no choice, and of scores taken before a validation.
    """

    def __init__(self, how: ReportSteps, algorithm: Algorithm) -> None:
        self.metric = algorithm.spec.kind.metric
        last, trained = algorithm.steps, algorithm.trained_steps
        self.eval_steps = None if last is None else algorithm.eval_steps(last)
        if how == "auto":
            how = "trained" if self.metric.heavy_tailed else "validation"
        if how == "trained" and trained is None:
            how = "last"
        self.chosen_by = None if last is None else how
        self.path = self.chosen_by == "validation"
        self.steps = last if last is None or trained is None or how == "last" else min(trained, last)

    def best(self, stages: Sequence[Scores]) -> int:
        """Index of the best mean over the validation scores (eval_steps, tasks) of ``stages``; of equal means the first."""
        means = [over_tasks(*scores)["mean"] for scores in zip(*stages, strict=True)]
        if all(mean is None for mean in means):
            return self.place if self.path else 0
        return max(range(len(means)), key=lambda i: -np.inf if means[i] is None else self.metric.sign * means[i])

    @property
    def place(self) -> int:
        """Index of `steps` among `eval_steps`."""
        return 0 if self.eval_steps is None or self.steps is None else self.eval_steps.index(self.steps)


def diverged(stages: Mapping[str, Scores], look: int, metric: Metric) -> dict[str, Any] | None:
    """The test tasks whose error at ``look`` is above `FAR` times the stage's mean before adaptation, or not finite.

    Args:
        stages: errors (eval_steps, tasks) by stage, the first before adaptation.
        look: index of the headline's number of inner steps.
        metric: of the errors.

    Returns:
        None if no task has diverged, else `n`, how many; `tasks`, stage, number and error (null: not finite) of the worst `NAMED`;
        and `others`, the `over_tasks` summary of all other tasks (None if there are none).
    """
    bad = {name: ~(scores[look] <= FAR * scores[0].mean(where=np.isfinite(scores[0]))) for name, scores in stages.items()}
    worst = [(stages[name][look, i], name, int(i)) for name, mask in bad.items() for i in np.flatnonzero(mask)]
    if not worst:
        return None
    worst.sort(key=lambda one: (-np.inf if not np.isfinite(one[0]) else -one[0], one[1:]))
    named = [
        {"stage": name, "task": i, metric.name: float(error) if np.isfinite(error) else None} for error, name, i in worst[:NAMED]
    ]
    kept = [stages[name][look][~mask] for name, mask in bad.items()]
    return {"n": len(worst), "tasks": named, "others": over_tasks(*kept) if all(map(len, kept)) else None}

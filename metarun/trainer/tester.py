"""Tests of the learner on the stages: rows of R, validation scores and the final test."""

from collections.abc import Callable
from typing import Any

from metarun.data.source import Stage, TaskSource
from metarun.ranks import Ranks
from metarun.report.statistics import over_tasks
from metarun.tracking import Log
from metarun.trainer.evaluation import evaluate
from metarun.trainer.headline import Headline, Scores
from metarun.trainer.runstate import RunState
from metarun.trainer.settings import Settings
from metarun.trainer.state import Outcome

Row = list[list[float | None]]
"""Means (numbers of inner steps, stages) of one test of all stages, columns by the stages' numbers."""


class Tester:
    """Scores the learner as it is now.

    Args:
        settings: for `val_tasks` and `test_tasks`.
        state: of the run.
        headline: the number of inner steps that counts.
        log: for the rows of R.
        ranks: the processes that share the tasks of a test.
        check: called between pieces of work, and may raise to stop.
    """

    def __init__(
        self, settings: Settings, state: RunState, headline: Headline, log: Log, ranks: Ranks, check: Callable[[], None]
    ) -> None:
        self.settings, self.state, self.headline = settings, state, headline
        self.log, self.ranks, self.check = log, ranks, check

    def scores(self, source: TaskSource, tasks: int, **how: Any) -> Scores:
        """Scores (eval_steps, tasks) after every number of inner steps that a test evaluates, see `evaluate`."""
        return evaluate(self.state.algorithm, source, tasks, **{"on_chunk": self.check, "ranks": self.ranks, **how})

    def headline_scores(self, source: TaskSource, tasks: int, **how: Any) -> Scores:
        """Scores after the numbers of inner steps that the headline is chosen among, (1, tasks) if there is no choice."""
        path = self.headline.path
        return self.scores(source, tasks, path=path, steps=None if path else self.headline.steps, **how)

    def validation_scores(self, stage: Stage, **how: Any) -> Scores:
        """`headline_scores` on the validation tasks of ``stage``."""
        return self.headline_scores(stage.val, self.settings.val_tasks, **how)

    def add_row(self) -> None:
        """Test the learner on every stage and add the means to R. With one stage there is no R: the row is empty."""
        state = self.state
        if len(state.stages) == 1:
            state.position.rows.append([])
            return
        scores = self._each_stage(lambda stage: self.headline_scores(stage.test, self.settings.test_tasks))
        row = self._row(scores)
        state.position.rows.append(row)
        means = row[self.headline.place if self.headline.path else 0]
        self.log.scalars(state.position.step, {f"stage/{s.name}": nan_for_none(m) for s, m in zip(state.given, means, strict=True)})

    def outcome(self, rounds: list[int] | None) -> Outcome:
        """Validate and test the final learner; of a single stage, that with the best weights, which it is left with."""
        state, headline, several = self.state, self.headline, len(self.state.stages) > 1
        test, validation = self._final_of_stages() if several else self._final_of_best()
        place = headline.best(validation)
        look = place if headline.path else headline.place
        if several:
            state.position.rows.append(self._row(test if headline.path else [scores[look : look + 1] for scores in test]))
        return Outcome(
            stages=[stage.name for stage in state.stages],
            test=test,
            validation=[scores[place] for scores in validation],
            rows=[[row[place][number] for number in state.position.order] for row in state.position.rows if row],
            position=state.position,
            headline=headline,
            look=look,
            rounds=rounds,
            boundaries=state.detector.steps if state.detector else [],
        )

    def _final_of_stages(self) -> tuple[list[Scores], list[Scores]]:
        test = self._each_stage(lambda stage: self.scores(stage.test, self.settings.test_tasks))
        return test, self._each_stage(self.validation_scores)

    def _final_of_best(self) -> tuple[list[Scores], list[Scores]]:
        stage, best = self.state.stages[0], self.state.best.states
        test = self.scores(stage.test, self.settings.test_tasks, ensemble=best or None)
        validation = self.validation_scores(stage, ensemble=best or None)
        if best:  # so that figures and later users of the learner see what was tested
            self.state.algorithm.load_state_dict(best[0])
        return [test], [validation]

    def _each_stage(self, score: Callable[[Stage], Scores]) -> list[Scores]:
        """``score`` of each stage in the order of training, with the learner as it is for that stage."""
        scores = []
        for number, stage in enumerate(self.state.stages):
            with self.state.method.testing(self.state.algorithm, number):
                scores.append(score(stage))
        return scores

    def _row(self, stages: list[Scores]) -> Row:
        """Means of the scores (eval_steps, tasks) of each stage in the order of training."""
        by_number = dict(sorted(zip(self.state.position.order, stages, strict=True)))
        return [[over_tasks(scores)["mean"] for scores in look] for look in zip(*by_number.values(), strict=True)]


def nan_for_none(value: float | None) -> float:
    """A mean that is not finite, as logs take it."""
    return float("nan") if value is None else value

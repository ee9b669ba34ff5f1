"""Rows of R, validation, the final test and the order of stages, on a table of scores."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from metarun.cl.method import ContinualMethod
from metarun.data.source import Stage
from metarun.metric import ACCURACY, MSE
from metarun.rng import derive
from metarun.trainer import tester as module
from metarun.trainer.order import StageOrder
from metarun.trainer.settings import Settings
from metarun.trainer.state import Position
from metarun.trainer.tester import nan_for_none
from metarun.trainer.validation import Validation

A, B, C = (Stage(name, f"{name} train", f"{name} val", f"{name} test") for name in "ABC")
SCORES = {  # (numbers of inner steps, tasks)
    "A test": [[1.0, 3.0], [2.0, 4.0], [5.0, 7.0]],
    "B test": [[10.0, 30.0], [20.0, 40.0], [50.0, np.inf]],
    "A val": [[0.5, 0.5], [0.25, 0.75], [1.0, 2.0]],
    "B val": [[3.0, 3.0], [7.0, 5.0], [9.0, 9.0]],
    "C val": [[2.0, 2.0], [1.0, np.nan], [2.0, 2.0]],
}


class Lines(list):
    def scalars(self, step, values, **labels):
        self.append((step, values, labels))


class Method(ContinualMethod):
    """Notes which stage is being tested."""

    now = None

    @contextmanager
    def testing(self, algorithm, stage):
        self.now = (algorithm, stage)
        yield
        self.now = None


class Learner:
    loaded = None

    def load_state_dict(self, state):
        self.loaded = state


class Asked(list):
    """Stands for `evaluate`: notes (source, tasks, how, number of the stage that the method tests)."""

    method = None

    def __call__(self, algorithm, source, tasks, **how):
        now = self.method.now
        assert now is None or now[0] is algorithm
        self.append((source, tasks, how, now and now[1]))
        return np.array(SCORES[source] if how.get("path", True) else SCORES[source][1:2])


@pytest.fixture
def asked(monkeypatch):
    asked = Asked()
    monkeypatch.setattr(module, "evaluate", asked)
    return asked


def made(asked, *given, order=None, path=False, best=1, metric=MSE, **keys):
    """A tester of stages ``given``; the headline is after step 1 of 0, 1, 2, on validation after number ``best``."""
    order = order or list(range(len(given)))
    position = Position(step=7, order=order, started=1)
    asked.method = Method()
    state = SimpleNamespace(
        algorithm=Learner(),
        method=asked.method,
        given=list(given),
        stages=[given[i] for i in order],
        position=position,
        total=20,
        best=SimpleNamespace(states=[], offered=[]),
        detector=None,
    )
    state.best.offer = lambda *of: state.best.offered.append(of)
    state.take = lambda order: setattr(position, "order", order)
    headline = SimpleNamespace(path=path, steps=1, place=1, metric=metric, eval_steps=[0, 1, 2], chosen_on=[])
    headline.best = lambda scores: (headline.chosen_on.append([of.tolist() for of in scores]), best)[1]
    settings = Settings(4, **{"iterations": 1, "tasks": 1, "optimizer": {}, "val_tasks": 3, "test_tasks": 5} | keys)
    return module.Tester(settings, state, headline, Lines(), "ranks", "check")


# Tests ---------------------------------------------------------------------------------------------------------------------------

ALL = {"on_chunk": "check", "ranks": "ranks"}
ONE = ALL | {"path": False, "steps": 1}
PATH = ALL | {"path": True, "steps": None}


def test_what_is_evaluated(asked):
    of = made(asked, A)
    of.scores("A test", 9, ensemble=[])
    of.headline_scores("A test", 8, ensemble=None)
    of.validation_scores(A, on_chunk="another")
    made(asked, A, path=True).headline_scores("A test", 8)
    assert asked == [
        ("A test", 9, ALL | {"ensemble": []}, None),
        ("A test", 8, ONE | {"ensemble": None}, None),
        ("A val", 3, ONE | {"on_chunk": "another"}, None),
        ("A test", 8, PATH, None),
    ]


def test_a_single_stage_has_no_rows(asked):
    of = made(asked, A)
    of.add_row()
    assert (of.state.position.rows, asked, of.log) == ([[]], [], [])


def test_a_row_is_in_the_order_of_the_data_whatever_the_order_of_training(asked):
    of = made(asked, A, B, order=[1, 0])
    of.add_row()
    assert asked == [("B test", 5, ONE, 0), ("A test", 5, ONE, 1)]
    assert of.state.position.rows == [[[3.0, 30.0]]]
    assert of.log == [(7, {"stage/A": 3.0, "stage/B": 30.0}, {})]


def test_a_row_has_all_numbers_of_steps_that_the_headline_is_chosen_among(asked):
    of = made(asked, A, B, path=True)
    of.headline.place = 2
    of.add_row()
    assert of.state.position.rows == [[[2.0, 20.0], [3.0, 30.0], [6.0, None]]]
    ((_, values, _),) = of.log
    assert values["stage/A"] == 6.0
    assert np.isnan(values["stage/B"])


def test_what_is_not_finite_is_nan_in_a_log():
    assert nan_for_none(0.0) == 0.0
    assert np.isnan(nan_for_none(None))


@pytest.mark.parametrize("path", [False, True])
def test_the_outcome_of_several_stages(path, asked):
    of = made(asked, A, B, order=[1, 0], path=path, best=2 if path else 0)
    of.state.position.rows = [[[1.0, 2.0]] * 3, []]
    of.state.detector = SimpleNamespace(steps=[4])
    of.state.best.states = ["of a stage"]
    found = of.outcome([0, 1])
    how = PATH if path else ONE
    assert asked == [("B test", 5, ALL, 0), ("A test", 5, ALL, 1), ("B val", 3, how, 0), ("A val", 3, how, 1)]
    assert found.stages == ["B", "A"]
    assert [scores.tolist() for scores in found.test] == [SCORES["B test"], SCORES["A test"]]
    assert found.look == (2 if path else 1)
    last = [[None, 6.0]] if path else [[30.0, 3.0]]
    assert found.rows == [[2.0, 1.0], *last]  # columns in the order of training
    assert [scores.tolist() for scores in found.validation] == [SCORES[f"{name} val"][2 if path else 1] for name in "BA"]
    assert (found.position, found.headline, found.rounds, found.boundaries) == (of.state.position, of.headline, [0, 1], [4])
    assert of.state.algorithm.loaded is None
    assert of.headline.chosen_on == [[SCORES[f"{name} val"][0 if path else 1 : 3 if path else 2] for name in "BA"]]
    assert found.position.rows[-1] == ([[3.0, 30.0]] if not path else [[2.0, 20.0], [3.0, 30.0], [6.0, None]])


@pytest.mark.parametrize("states", [[], ["first", "second"]])
def test_the_outcome_of_a_single_stage_is_that_of_the_best_weights(states, asked):
    of = made(asked, A, best=0)
    of.state.best.states = states
    of.add_row()
    found = of.outcome(None)
    assert asked == [
        ("A test", 5, ALL | {"ensemble": states or None}, None),
        ("A val", 3, ONE | {"ensemble": states or None}, None),
    ]
    assert of.state.algorithm.loaded == (states[0] if states else None)
    assert [scores.tolist() for scores in found.test] == [SCORES["A test"]]
    assert [scores.tolist() for scores in found.validation] == [[0.25, 0.75]]
    assert (found.stages, found.rows, found.look, found.rounds, found.boundaries) == (["A"], [], 1, None, [])


# Validation ----------------------------------------------------------------------------------------------------------------------


class Meter:
    """Notes whether its clock stands still."""

    def __init__(self, visible=False):
        self.visible, self.shown, self.running, self.pauses = visible, [], True, 0

    @contextmanager
    def paused(self):
        self.running, self.pauses = False, self.pauses + 1
        yield
        self.running = True

    def show(self, **shown):
        assert not self.running
        self.shown.append(shown)


def validated(of, stage, **meter):
    validation = Validation(of.state, of, Meter(**meter), of.log)
    validation(stage)
    assert (validation.meter.running, validation.meter.pauses) == (True, 1)
    return validation.meter.shown


@pytest.mark.parametrize(("metric", "sign"), [(MSE, -1), (ACCURACY, 1)])
def test_a_validation_is_logged_shown_and_offered(metric, sign, asked, caplog):
    of = made(asked, A, B, metric=metric, best=0)
    with caplog.at_level("INFO"):
        shown = validated(of, B)
    ((source, tasks, how, _),) = asked
    assert how.pop("on_chunk")() is None
    assert (source, tasks, how) == ("B val", 3, {"ranks": "ranks", "path": False, "steps": 1})
    ((step, values, labels),) = of.log
    assert (step, values) == (7, {f"val/{metric.name}": 6.0})
    assert labels == {"ci95": pytest.approx(1.96)}
    assert of.state.best.offered == [(of.state.algorithm, sign * 6.0)]
    assert shown == [{f"val {metric.name}": "6"}]
    described = {"mse": "mse 6.000 ± 1.960", "accuracy": "accuracy 600.00 ± 196.00 %"}[metric.name]
    assert caplog.messages == [f"Update 7 of 20: validation {described}"]


def test_a_validation_says_after_how_many_steps_it_is_where_these_are_chosen(asked):
    of = made(asked, A, path=True, best=2)
    shown = validated(of, A)
    ((_, values, labels),) = of.log
    assert (values["val/mse"], labels["inner_steps"]) == (1.5, 2)
    assert of.headline.chosen_on == [[SCORES["A val"]]]
    assert shown == [{"val mse": "1.5"}]
    of = made(asked, A, path=True, best=0)  # a learner without inner steps
    of.headline.eval_steps = None
    validated(of, A)
    assert "inner_steps" not in of.log[0][2]


def test_a_validation_that_is_not_finite_is_no_best(asked):
    of = made(asked, C, best=0)
    assert validated(of, C) == [{"val mse": "not finite"}]
    assert np.isnan(of.log[0][1]["val/mse"])
    assert of.state.best.offered == []


def test_a_validation_beside_a_bar_writes_no_line(asked, caplog):
    with caplog.at_level("INFO"):
        validated(made(asked, A, best=0), A, visible=True)
    assert not caplog.messages


# Order ---------------------------------------------------------------------------------------------------------------------------


def arranged(of, first=0):
    StageOrder(of.settings, of.state, of, of.log).arrange(first)
    return of.state.position.order


@pytest.mark.parametrize(
    ("order", "metric", "taken"),
    [
        ("easy_first", MSE, [0, 1, 2]),  # means 0.5, 6, not finite
        ("hard_first", MSE, [2, 1, 0]),
        ("active", MSE, [2, 1, 0]),
        ("easy_first", ACCURACY, [1, 0, 2]),
        ("hard_first", ACCURACY, [2, 0, 1]),
        ("given", MSE, [0, 2, 1]),
    ],
)
def test_stages_are_sorted_by_their_validation(order, metric, taken, asked):
    of = made(asked, A, B, C, order=[0, 2, 1], metric=metric, best=0)
    of.settings.order = order
    assert arranged(of) == taken
    if order != "given":
        assert [(source, stage) for source, _, _, stage in asked] == [("A val", 0), ("C val", 1), ("B val", 2)]
        assert [(step, *values) for step, values, _ in of.log] == [(7, f"order/{name}") for name in "ACB"]
        assert [*of.log[0][1].values(), *of.log[2][1].values()] == [0.5, 6.0]
        assert np.isnan(of.log[1][1]["order/C"])


def test_a_random_order_is_a_permutation_of_the_seed(asked):
    of = made(asked, A, B, C, A, B, order=[4, 0, 3, 1, 2])
    of.settings.order = "random"
    expected = np.random.default_rng(derive(4, "order")).permutation([4, 0, 3, 1, 2]).tolist()
    assert arranged(of) == expected
    assert not asked


def test_only_active_sorts_again_and_only_what_is_to_come(asked):
    for order, taken in (("easy_first", [2, 0, 1]), ("random", [2, 0, 1]), ("active", [2, 1, 0])):
        of = made(asked, A, B, C, order=[2, 0, 1], best=0)
        of.settings.order = order
        assert arranged(of, 1) == taken
    assert [source for source, *_ in asked] == ["A val", "B val"]
    assert arranged(of, 2) == [2, 1, 0]  # the last needs no score
    assert len(asked) == 2


def test_the_best_number_of_steps_decides_where_it_is_chosen(asked):
    of = made(asked, A, B, path=True, best=2)
    order = StageOrder(of.settings, of.state, of, of.log)
    assert (order.score(0), order.score(1)) == (-1.5, -9.0)
    assert of.headline.chosen_on == [[SCORES["A val"]], [SCORES["B val"]]]
    of = made(asked, C, best=0)
    assert StageOrder(of.settings, of.state, of, of.log).score(0) == -np.inf

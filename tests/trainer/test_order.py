"""The order of stages: what decides it, and that it, and R, survive a kill."""

import numpy as np
import pytest
import torch
from streams import CPU, WAYS, learner, method, stopped_and_resumed, stream, train

from metarun.config import ConfigError
from metarun.tracking import RunFolder
from metarun.trainer.evaluation import evaluate
from metarun.trainer.order import StageOrder
from metarun.trainer.trainer import Trainer

NAMES = ["pair 0", "pair 1", "pair 2"]


def test_orders_are_permutations_of_the_seed(tmp_path):
    data = stream("task")
    given, _ = train(tmp_path / "given", data, method("none"))
    assert given.stages == NAMES
    taken = []
    for seed in range(6):
        folder = RunFolder(tmp_path / str(seed))
        adam = {"_target_": "torch.optim.Adam"}
        trainer = Trainer(seed, iterations=0, tasks=1, optimizer=adam, order="random", tensorboard=False)
        taken.append(trainer.fit(learner(data), data.stages(CPU), method("none"), folder, "tests").stages)
    assert all(sorted(names) == NAMES for names in taken)
    assert len({tuple(names) for names in taken}) > 1


@pytest.mark.parametrize("order", ["easy_first", "hard_first"])
def test_the_untrained_learners_validation_decides(order, tmp_path):
    data = stream("class")
    stages = data.stages(CPU)
    score = {stage.name: evaluate(learner(data), stage.val, 200).mean() for stage in stages}
    outcome, _ = train(tmp_path, data, method("none"), order=order)
    found = [score[name] for name in outcome.stages]
    assert found == sorted(found, reverse=order == "easy_first")
    assert len(set(found)) > 1


def test_active_takes_the_worst_of_those_left(tmp_path, monkeypatch):
    """Told the scores: stage 1 is hardest at first; then 0 is better than 2, as it was not at the start."""
    score = {0: {"pair 0": 0.3, "pair 1": 0.1, "pair 2": 0.4}, 6: {"pair 0": 0.9, "pair 2": 0.2}}
    asked = []

    def told(order, place):
        name, step = order.state.stages[place].name, order.state.position.step
        asked.append((step, name))
        return score[step][name]

    monkeypatch.setattr(StageOrder, "score", told)
    outcome, _ = train(tmp_path / "active", stream("task"), method("none"), order="active")
    assert outcome.stages == ["pair 1", "pair 2", "pair 0"]
    assert {step for step, _ in asked} == {0, 6}  # the last is not chosen
    hard, _ = train(tmp_path / "hard", stream("task"), method("none"), order="hard_first")
    assert hard.stages == ["pair 1", "pair 0", "pair 2"]


def test_columns_of_r_are_in_the_order_taken(tmp_path, monkeypatch):
    """Each learner, however the order came about, is tested on the stages as they were taken."""
    known = {"pair 0": 2.0, "pair 1": 0.0, "pair 2": 1.0}
    monkeypatch.setattr(StageOrder, "score", lambda order, place: known[order.state.stages[place].name])
    data = stream("task")
    outcome, algorithm = train(tmp_path, data, method("none"), order="active", iterations=30)
    assert outcome.stages == ["pair 1", "pair 2", "pair 0"]
    stages = {stage.name: stage for stage in data.stages(CPU)}
    for row, of in ((0, learner(data)), (3, algorithm)):
        expected = [float(evaluate(of, stages[name].test, 1000)[-1].mean()) for name in outcome.stages]
        assert outcome.rows[row] == pytest.approx(expected)
    assert np.array(outcome.rows).shape == (4, 3)


@pytest.mark.parametrize("name", ["heads", "ewc"])
@pytest.mark.parametrize("stop", [3, 9, 14])
def test_a_kill_changes_nothing(name, stop, tmp_path, monkeypatch):
    data = stream("domain")
    whole, algorithm = train(tmp_path / "whole", data, method(name), order="active")
    again, resumed = stopped_and_resumed(tmp_path / "stopped", data, name, (), stop, monkeypatch, order="active")
    assert again.stages == whole.stages
    assert again.rows == whole.rows
    for key, value in algorithm.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value)


def test_an_online_stream_has_no_order():
    with pytest.raises(ConfigError, match="order=active: expected given"):
        Trainer(0, iterations=1, tasks=WAYS, optimizer={}, order="active", switch=0.1)

"""Intervals worked by hand, chunks that change nothing, learners put back as they were."""

import numpy as np
import pytest
import torch
from small import LINE, PICTURES, conv, images, mlp

from metarun.algo.maml import MAML
from metarun.algo.metalstm import MetaLSTM
from metarun.data.sine import Sine
from metarun.report.statistics import over_tasks
from metarun.trainer import evaluation
from metarun.trainer.evaluation import evaluate

SOURCE = Sine(0).stages(torch.device("cpu"))[0].test


def learner():
    return MAML(LINE, mlp, 0.01, test_steps=3)


def test_summary_by_hand():
    found = over_tasks(np.array([1.0, 2.0, 3.0, 6.0]))
    assert found["mean"] == 3.0
    assert found["ci95"] == pytest.approx(1.96 * (14 / 3) ** 0.5 / 2)
    assert found["median"] == 2.5
    assert (found["n_tasks"], found["n_nonfinite"]) == (4, 0)


def test_tasks_that_are_not_finite_are_counted_not_dropped():
    found = over_tasks(np.array([1.0, np.inf, 2.0, 3.0, np.nan]))
    assert found["mean"] is found["ci95"] is None
    assert found["n_nonfinite"] == 2
    assert found["median"] == 3.0
    assert over_tasks(np.array([np.nan, np.nan, 1.0]))["median"] is None


def test_an_inner_loop_that_diverges_on_images_is_no_chance_result():
    data = images(tasks=3, dtype=torch.float32)

    class Source:
        count = 3

        def sample(self, ids):
            return data.pick(ids)

    scores = evaluate(MAML(PICTURES, conv, 1e30, test_steps=3), Source(), 3)
    assert np.isfinite(scores[0]).all()
    assert np.isnan(scores[-1]).all()
    assert over_tasks(scores[-1])["n_nonfinite"] == 3
    assert over_tasks(scores[-1])["mean"] is None


def test_one_task_has_no_interval():
    assert over_tasks(np.array([0.5]))["ci95"] is None


def test_chunks_change_nothing(monkeypatch):
    algorithm = learner()
    whole = evaluate(algorithm, SOURCE, 30)
    assert whole.shape == (4, 30)
    monkeypatch.setattr(evaluation, "CHUNK_VALUES", 7 * 20)
    np.testing.assert_allclose(evaluate(algorithm, SOURCE, 30), whole, rtol=1e-5)
    algorithm.task_chunk = 4
    np.testing.assert_allclose(evaluate(algorithm, SOURCE, 30), whole, rtol=1e-5)


def test_a_learners_own_numbers_bound_what_is_tested_at_once(monkeypatch):
    algorithm = MetaLSTM(LINE, mlp, test_steps=2, hidden=5)
    assert algorithm.held == 5 * (7 + 7 + 7 * 6 + 6 + 6 + 1)
    sizes = []
    predictions = algorithm.predictions

    def counted(episodes, *args, **keys):
        sizes.append(len(episodes))
        return predictions(episodes, *args, **keys)

    monkeypatch.setattr(algorithm, "predictions", counted)
    monkeypatch.setattr(evaluation, "CHUNK_VALUES", 8 * algorithm.held)
    evaluate(algorithm, SOURCE, 20)
    assert sizes == [8, 8, 4]


def test_the_learner_is_left_as_it_was():
    algorithm = learner().train()
    before = {name: value.clone() for name, value in algorithm.state_dict().items()}
    ensemble = [{name: value + 0.1 for name, value in before.items()}, before]
    evaluate(algorithm, SOURCE, 5, ensemble=ensemble)
    assert algorithm.training
    for name, value in algorithm.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(w.grad is None for w in algorithm.parameters())


def test_work_is_counted():
    algorithm = learner()  # 1-7-6-1
    assert evaluation.work_of(algorithm, SOURCE.sample(torch.arange(1))) == 20 * 2 * (7 + 7 * 6 + 6)


def test_an_ensemble_averages_predictions():
    algorithm = learner()
    states = [{name: value + shift for name, value in algorithm.state_dict().items()} for shift in (0.0, 0.2)]
    tasks = SOURCE.sample(torch.arange(5))
    paths = []
    for state in states:
        algorithm.load_state_dict(state)
        with torch.no_grad():
            paths.append(algorithm.trajectory(tasks.support, tasks.query.x, 3))
    expected = ((paths[0] + paths[1]) / 2 - tasks.query.y).square().mean((-1, -2))
    np.testing.assert_allclose(evaluate(algorithm, SOURCE, 5, ensemble=states), expected.numpy(), rtol=1e-5)


def test_several_stages_by_hand():
    """The mean of the stages' means; its variance is the sum of theirs over the number of stages squared."""
    found = over_tasks(np.array([1.0, 3.0]), np.array([5.0, 6.0, 10.0, 7.0]))
    assert found["mean"] == (2.0 + 7.0) / 2
    assert found["ci95"] == pytest.approx(1.96 * (2 / 2 + (14 / 3) / 4) ** 0.5 / 2)
    assert (found["n_tasks"], found["n_nonfinite"], found["median"]) == (6, 0, 5.5)
    assert over_tasks(np.array([1.0, 3.0]), np.array([5.0]))["ci95"] is None


def test_a_median_needs_more_than_half_of_the_tasks():
    assert over_tasks(np.array([1.0, np.nan]))["median"] is None
    assert over_tasks(np.array([1.0, 4.0, np.nan]))["median"] == 4.0


def test_scores_are_of_the_tasks_from_0_on_whatever_their_number():
    algorithm, seen = learner(), []

    class Few:
        count = 7

        def sample(self, ids):
            seen.append(ids.tolist())
            return SOURCE.sample(ids)

    whole = evaluate(algorithm, SOURCE, 7)
    algorithm.task_chunk = 3
    called = []
    found = evaluate(algorithm, Few(), 30, on_chunk=lambda: called.append(len(seen)))
    np.testing.assert_allclose(found, whole, rtol=1e-5)
    assert found.dtype == np.float64
    assert seen == [[0], [0, 1, 2], [3, 4, 5], [6]]
    assert called == [1, 2, 3]
    assert evaluate(algorithm, SOURCE, 7, path=False).shape == (1, 7)
    np.testing.assert_allclose(evaluate(algorithm, SOURCE, 7, path=False, steps=1), whole[1:2], rtol=1e-5)
    np.testing.assert_allclose(evaluate(algorithm, SOURCE, 7, path=False), whole[-1:], rtol=1e-5)


@pytest.mark.parametrize(("values", "chunk"), [(7 * 20, 7), (1, 1), (10**9, 1000)])
def test_tasks_at_once_follow_from_their_size(values, chunk, monkeypatch):
    monkeypatch.setattr(evaluation, "CHUNK_VALUES", values)
    assert evaluation._chunk(learner(), SOURCE.sample(torch.arange(1))) == chunk  # of 20 numbers each


def test_what_else_a_test_tells_is_put_together():
    class Telling(MAML):
        def probe(self, episodes):
            assert not self.training
            assert not torch.is_grad_enabled()
            return {"amplitude": episodes.context["amplitude"], "first": episodes.query.x[:, 0, 0]}

    algorithm = Telling(LINE, mlp, 0.01, task_chunk=2)
    tasks = SOURCE.sample(torch.arange(5))
    found = evaluation.probe(algorithm, SOURCE, 5)
    assert {name: (values.shape, values.dtype) for name, values in found.items()} == {
        "amplitude": ((5, 1), np.float64),
        "first": ((5,), np.float64),
    }
    np.testing.assert_allclose(found["amplitude"], tasks.context["amplitude"].numpy())
    np.testing.assert_allclose(found["first"], tasks.query.x[:, 0, 0].numpy())
    algorithm.task_chunk = None  # all at once
    np.testing.assert_array_equal(evaluation.probe(algorithm, SOURCE, 5)["first"], found["first"])

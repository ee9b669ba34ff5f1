"""Predictions that are drawn: one task with few and with more points, before and after it adapts."""

import numpy as np
import pytest
import torch
from small import LINE, mlp
from streams import CPU, learner, stream

from metarun.algo.maml import MAML
from metarun.algo.oracle import Oracle
from metarun.data.sine import Sine
from metarun.model.mlp import MLP
from metarun.trainer.examples import adaptation_examples


@pytest.mark.parametrize("trained", [1, 3])
def test_one_task_with_5_10_and_20_points_after_0_1_5_and_10_steps(trained):
    data, algorithm = Sine(0), MAML(LINE, mlp, 0.01, inner_steps=trained, test_steps=2).train()
    found = adaptation_examples(algorithm, data, CPU)
    assert [fit.shots for fit in found] == [5, 10, 20]
    assert algorithm.training  # as it was
    for fit in found:
        tasks = data.curve(fit.shots, CPU)
        columns = (fit.support_x, fit.support_y, fit.x, fit.y)
        for column, expected in zip(columns, (*tasks.support[:2], *tasks.query[:2]), strict=True):
            assert column.dtype == np.float64
            np.testing.assert_array_equal(column, expected.flatten().numpy())
        assert list(fit.predictions) == [0, 1, 5, 10]  # and not 2 or 3, which a test looks at, too
        for steps, drawn in fit.predictions.items():
            with torch.no_grad():
                last = algorithm.eval().predictions(tasks, steps, path=False)[-1]
            np.testing.assert_allclose(drawn, last.flatten().numpy(), rtol=1e-5, atol=1e-6)
        algorithm.train()


def test_a_learner_without_steps_has_one_prediction():
    data = Sine(0)
    found = adaptation_examples(Oracle(data.spec, lambda outputs, shape: MLP(shape, outputs, widths=[4])), data, CPU)
    assert [list(fit.predictions) for fit in found] == [[0]] * 3


def test_what_is_no_curve_is_not_drawn():
    data = stream("domain")
    assert adaptation_examples(learner(data), data, CPU) == []

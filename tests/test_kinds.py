"""Kinds of task: their losses and scores by hand, and a kind of one's own."""

import math

import pytest
import torch
from small import regression

from metarun.algo.algorithm import masked
from metarun.episodes import Episodes
from metarun.kinds import CLASSIFICATION, REGRESSION


def test_losses_and_scores_by_hand():
    values, targets = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[1.0, 0.0], [0.0, 4.0]]])
    assert REGRESSION.losses(values, targets).tolist() == REGRESSION.scores(values, targets).tolist() == [13 / 4]
    logits = torch.tensor([[[0.0, math.log(3.0)], [0.0, 0.0]], [[2.0, 0.0], [0.0, 2.0]]])
    y = torch.tensor([[1, 0], [1, 1]])
    right = math.log(1 + math.exp(-2))
    assert CLASSIFICATION.losses(logits, y).tolist() == pytest.approx([(math.log(4 / 3) + math.log(2)) / 2, (2 + 2 * right) / 2])
    assert CLASSIFICATION.scores(logits, y).tolist() == [1.0, 0.5]
    assert CLASSIFICATION.scores(torch.stack([logits, -logits]), y).tolist() == [[1.0, 0.5], [0.5, 0.5]]
    assert masked(logits, regression(tasks=2)) is logits


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_task_with_a_prediction_that_is_not_finite_has_no_score(bad):
    """Whatever the label: the argmax of NaN is class 0, and a test whose labels begin with it would call that right."""
    logits = torch.zeros(2, 3, 4, 5)  # looks, tasks, queries, outputs
    logits[..., 0] = 1.0
    logits[1, 2, 3, 1] = bad
    y = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]])
    scores = CLASSIFICATION.scores(logits, y)
    assert scores[0].tolist() == [1.0, 0.5, 1.0]
    assert scores[1, :2].tolist() == [1.0, 0.5]
    assert scores[1, 2].isnan()
    assert CLASSIFICATION.scores(torch.full((1, 4, 15, 5), bad), torch.zeros(4, 15, dtype=torch.int64)).isnan().all()


def test_outputs_that_are_not_active_leave_a_score():
    active = torch.tensor([[True, False, True]])
    tasks = Episodes(regression(tasks=1).support, regression(tasks=1).query, {"active": active})
    assert CLASSIFICATION.scores(masked(torch.zeros(1, 2, 3), tasks), torch.tensor([[0, 1]])).tolist() == [0.5]


def test_an_error_after_each_step_is_a_mean_over_queries_and_targets():
    y = torch.tensor([[[0.0], [0.0], [0.0]], [[1.0], [1.0], [1.0]]])  # 2 tasks, 3 queries
    after = torch.stack([torch.zeros_like(y), y, y + torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1)])
    assert REGRESSION.scores(after, y).tolist() == [[0.0, 1.0], [0.0, 0.0], pytest.approx([14 / 3, 14 / 3])]

"""The outer gradient is clipped by value, then by norm, and what is not finite stays so."""

import math

import pytest
import torch
from shared_out import made

from metarun.cl.method import ContinualMethod
from metarun.ranks import ALONE
from metarun.tracking import RunFolder
from metarun.trainer.state import Diverged
from metarun.trainer.trainer import Trainer, _Job


def job(path, **keys):
    stages, algorithm = made("maml", "sine")
    sgd = {"_target_": "torch.optim.SGD", "lr": 1.0}  # an update moves the weights by the gradient itself
    trainer = Trainer(0, iterations=100, tasks=5, optimizer=sgd, tensorboard=False, **keys)
    return _Job(trainer, algorithm, stages, ContinualMethod(), RunFolder(path), "tests", ALONE)


@pytest.mark.parametrize("clip_value", [None, 0.05])
@pytest.mark.parametrize("clip", [None, 0.03])
def test_an_update_moves_by_the_clipped_gradient(clip, clip_value, tmp_path):
    made_by = job(tmp_path, clip=clip, clip_value=clip_value)
    algorithm = made_by.algorithm
    before = torch.cat([w.detach().flatten().clone() for w in algorithm.parameters()])
    algorithm.backward(made_by.stages[0].train.sample(torch.arange(5)))
    expected = [0.0 if w.grad is None else value for w in algorithm.parameters() for value in w.grad.flatten().tolist()]
    assert max(map(abs, expected)) > 0.05
    if clip_value is not None:
        expected = [min(max(value, -clip_value), clip_value) for value in expected]
    norm = math.sqrt(sum(value**2 for value in expected))
    if clip is not None:
        assert norm > clip
        expected = [value * clip / norm for value in expected]
    made_by._begin(0)
    made_by._update()
    made_by.log.close()
    after = torch.cat([w.detach().flatten() for w in algorithm.parameters()])
    torch.testing.assert_close(before - after, torch.tensor(expected, dtype=before.dtype), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_a_gradient_that_is_not_finite_still_ends_the_run(value, tmp_path, monkeypatch):
    made_by = job(tmp_path, clip_value=10.0)
    backward = made_by.algorithm.backward

    def harmed(episodes):
        losses = backward(episodes)
        next(made_by.algorithm.parameters()).grad.view(-1)[0] = value
        return losses

    monkeypatch.setattr(made_by.algorithm, "backward", harmed)
    made_by._begin(0)
    made_by._update()
    with pytest.raises(Diverged, match="a weight is not finite at update 1"):
        made_by._save()
    made_by.log.close()

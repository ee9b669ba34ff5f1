"""The outer gradient is clipped by value, then by norm, and what is not finite stays so."""

import math

import pytest
import torch
from shared_out import made
from updates import update_of

from metarun.cl.method import ContinualMethod
from metarun.tracking import RunFolder
from metarun.trainer.state import Diverged
from metarun.trainer.trainer import Trainer

UNIT = {"_target_": "torch.optim.SGD", "lr": 1.0}
"""Moves the weights by the gradient itself."""


@pytest.mark.parametrize("clip_value", [None, 0.05])
@pytest.mark.parametrize("clip", [None, 0.03])
def test_an_update_moves_by_the_clipped_gradient(clip, clip_value):
    stages, algorithm = made("maml", "sine")
    episodes = stages[0].train.sample(torch.arange(5))
    before = torch.cat([w.detach().flatten().clone() for w in algorithm.parameters()])
    algorithm.backward(episodes)
    expected = [0.0 if w.grad is None else value for w in algorithm.parameters() for value in w.grad.flatten().tolist()]
    assert max(map(abs, expected)) > 0.05
    if clip_value is not None:
        expected = [min(max(value, -clip_value), clip_value) for value in expected]
    norm = math.sqrt(sum(value**2 for value in expected))
    if clip is not None:
        assert norm > clip
        expected = [value * clip / norm for value in expected]
    update_of(algorithm, optimizer=UNIT, clip=clip, clip_value=clip_value)(episodes)
    after = torch.cat([w.detach().flatten() for w in algorithm.parameters()])
    torch.testing.assert_close(before - after, torch.tensor(expected, dtype=before.dtype), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_a_gradient_that_is_not_finite_still_ends_the_run(value, tmp_path, monkeypatch):
    stages, algorithm = made("maml", "sine")
    backward = algorithm.backward

    def harmed(episodes):
        losses = backward(episodes)
        next(algorithm.parameters()).grad.view(-1)[0] = value
        return losses

    monkeypatch.setattr(algorithm, "backward", harmed)
    trainer = Trainer(0, iterations=1, tasks=5, optimizer=UNIT, clip_value=10.0, validate_every=None, tensorboard=False)
    with pytest.raises(Diverged, match="a weight is not finite at update 1"):
        trainer.fit(algorithm, stages[:1], ContinualMethod(), RunFolder(tmp_path), "tests")

"""Lines: what one step can do is known from ridge regression on the same support."""

import numpy as np
import pytest
import torch
from runs import results

from metarun.data.linear import Linear

CPU = torch.device("cpu")


def test_tasks_are_noisy_lines():
    tasks = Linear(0, queries=100, noise=0.2).stages(CPU)[0].train.sample(torch.arange(500))
    slope, intercept = (tasks.context[name].unsqueeze(1) for name in ("slope", "intercept"))
    residual = tasks.query.y - slope * tasks.query.x - intercept
    assert residual.std().item() == pytest.approx(0.2, rel=0.02)
    assert -2 <= slope.min() < -1.9 < 1.9 < slope.max() <= 2


def ridge_error(data: Linear, tasks: int) -> float:
    """Test error of ridge regression on each support set, its strengths those that noise and prior call for.

    Slope and intercept have variances 4/3 and 1/3 and the noise has 1: the posterior mean is ridge with 3/4 and 3.
    """
    sampled = data.stages(CPU)[0].test.sample(torch.arange(tasks))
    errors = []
    for x, y, qx, qy in zip(*(part[..., 0].double().numpy() for part in (*sampled.support[:2], *sampled.query[:2])), strict=True):
        features = np.stack([x, np.ones_like(x)], 1)
        weights = np.linalg.solve(features.T @ features + np.diag([3 / 4, 3]), features.T @ y)
        errors.append(np.mean((weights[0] * qx + weights[1] - qy) ** 2))
    return float(np.mean(errors))


def test_maml_is_near_ridge_regression_after_one_step(here):
    """A linear model that takes one step, against the best linear estimate from the same 10 points."""
    keys = ("trainer.iterations=1500", "trainer.figures=false", "trainer.tensorboard=false", "hydra.run.dir=run")
    data = ("data=linear", "data.noise=1.0", "data.x=[-1.7,1.7]", "model.widths=[]")
    here("algo=maml", "algo.inner_lr=0.4", "algo.test_steps=1", *data, *keys)
    found = results(here.folder / "run")
    error = found["test"]["by_step"][1]["mean"]
    assert error < 1.2 * ridge_error(Linear(0, noise=1.0, x=(-1.7, 1.7)), 1000)

"""Meta-SGD against a plain loop."""

import pytest
import torch
from reference import assert_gradients, copies, descend, part, plain_conv4, plain_loss, plain_mlp
from small import LINE, PICTURES, conv, images, mlp, regression

from metarun.algo.metasgd import MetaSGD

KINDS = {"mlp": (LINE, mlp, regression, plain_mlp), "conv": (PICTURES, conv, images, lambda w, x: plain_conv4(w, x)[0])}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 3])
def test_gradients_of_weights_and_rates(kind, steps):
    spec, factory, episodes, forward = KINDS[kind]
    algorithm = MetaSGD(spec, factory, (0.05, 0.3), inner_steps=steps).double()
    tasks = episodes()
    leaves = copies(algorithm)
    weights = part(leaves, "network.")
    rates = dict(zip(weights, part(leaves, "rates.rates.").values(), strict=True))
    loss = torch.zeros((), dtype=torch.float64)
    for t in range(len(tasks)):
        support, query = tasks.support.tasks(slice(t, t + 1)), tasks.query.tasks(slice(t, t + 1))

        def support_loss(step, w, support=support):
            return plain_loss(forward(w, support.x[0]), support.y[0])

        fast = descend(support_loss, weights, lambda step, name: rates[name][0], steps)[-1]
        loss = loss + plain_loss(forward(fast, query.x[0]), query.y[0]) / len(tasks)
    assert_gradients(algorithm, tasks, loss, leaves)


def test_one_rate_for_all_weights_is_maml():
    assert all((rate == 0.1).all() for rate in MetaSGD(LINE, mlp, 0.1).rates.rates)

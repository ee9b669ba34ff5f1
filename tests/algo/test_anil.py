"""ANIL against a plain loop over tasks in which the head alone moves."""

import pytest
import torch
from reference import assert_gradients, copies, descend, part, plain_conv4, plain_loss, plain_mlp
from small import LINE, PICTURES, conv, images, mlp, regression

from metarun.algo.anil import ANIL


def embed_line(weights, x, moments):
    return torch.relu(plain_mlp(weights, x)), None  # the plain network's last layer is the embedding's last hidden one


KINDS = {"mlp": (LINE, mlp, regression, embed_line), "conv": (PICTURES, conv, images, plain_conv4)}


@pytest.mark.parametrize(("kind", "batch_norm"), [("mlp", "transductive"), ("conv", "transductive"), ("conv", "support")])
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("first_order", [False, True])
def test_gradients(kind, batch_norm, steps, first_order):
    spec, factory, episodes, embed = KINDS[kind]
    algorithm = ANIL(spec, factory, 0.3, inner_steps=steps, first_order=first_order, batch_norm=batch_norm).double()
    tasks = episodes()
    leaves = copies(algorithm)
    body, head = part(leaves, "network."), part(leaves, "head.")
    loss = torch.zeros((), dtype=torch.float64)
    for t in range(len(tasks)):
        support, moments = embed(body, tasks.support.x[t], None)
        query, _ = embed(body, tasks.query.x[t], moments if batch_norm == "support" else None)

        def support_loss(step, w, support=support, t=t):
            return plain_loss(support @ w["weight"].T + w["bias"], tasks.support.y[t])

        fast = descend(support_loss, head, lambda step, name: 0.3, steps, first_order=first_order)[-1]
        loss = loss + plain_loss(query @ fast["weight"].T + fast["bias"], tasks.query.y[t]) / len(tasks)
    assert_gradients(algorithm, tasks, loss, leaves)


def test_the_path_ends_where_adaptation_ends():
    algorithm = ANIL(PICTURES, conv, 0.3, test_steps=12).double().eval()
    tasks = images()
    with torch.no_grad():
        path = algorithm.trajectory(tasks.support, tasks.query.x, 12)
        torch.testing.assert_close(path[-1], algorithm.predict(algorithm.adapt(tasks.support, 12), tasks.query.x))
    assert len(path) == 6  # after 0, 1, 2, 5, 10 and 12 steps

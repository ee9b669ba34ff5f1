"""CAVIA against a plain loop whose network is written as in the paper."""

import pytest
import torch
from reference import assert_gradients, copies, descend, part, plain_conv4, plain_loss, plain_mlp
from small import LINE, PICTURES, conv, images, mlp, regression
from torch import nn

from metarun.algo.cavia import CAVIA
from metarun.config import ConfigError, RangeError
from metarun.model.network import as_network


def with_context_at_the_input(weights, films, x, context):
    """The paper's network on regression: the context joined to the input, so the first layer has columns for it."""
    first = torch.cat([weights["layers.0.weight"], films[0]], 1)
    return plain_mlp(weights | {"layers.0.weight": first}, torch.cat([x, context.expand(len(x), -1)], 1))


def with_film(weights, films, x, context):
    shift, scale = (films[0] @ context).chunk(2)
    return plain_conv4(weights, x, film={2: (1 + scale, shift)})[0]


KINDS = {
    "mlp": (LINE, mlp, regression, with_context_at_the_input, {}),
    "conv": (PICTURES, conv, images, with_film, {"layers": (2,), "scale": True}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients(kind, steps, recompute):
    spec, factory, episodes, forward, keys = KINDS[kind]
    algorithm = CAVIA(spec, factory, 0.8, inner_steps=steps, context=4, recompute=recompute, **keys).double()
    tasks = episodes()
    leaves = copies(algorithm)
    weights, films = part(leaves, "network."), list(part(leaves, "film.").values())
    start = {"context": torch.zeros(4, dtype=torch.float64, requires_grad=True)}
    loss = torch.zeros((), dtype=torch.float64)
    for t in range(len(tasks)):

        def loss_on(examples, w, t=t):
            return plain_loss(forward(weights, films, examples.x[t], w["context"]), examples.y[t])

        fast = descend(lambda step, w: loss_on(tasks.support, w), start, lambda step, name: 0.8, steps)[-1]
        loss = loss + loss_on(tasks.query, fast) / len(tasks)
    assert_gradients(algorithm, tasks, loss, leaves)


def test_what_cannot_be_modulated_is_refused():
    with pytest.raises(ConfigError, match="this network has none"):
        CAVIA(LINE, lambda outputs: as_network(nn.Sequential(nn.Flatten(), nn.Linear(1, outputs))), 1.0)
    with pytest.raises(RangeError, match="some of 0, 1"):
        CAVIA(LINE, mlp, 1.0, layers=(2,))

"""SNAIL against a plain form that computes the whole sequence, support set and query, under masks."""

import pytest
import torch
from reference import assert_gradients, copies, part, plain_conv4, plain_loss, plain_mlp
from small import LINE, PICTURES, conv, images, mlp, regression
from torch.nn import functional as F

from metarun.algo.readers.snail import SNAIL, CausalAttention, CausalConvolution

KINDS = {"mlp": (LINE, mlp, regression), "conv": (PICTURES, conv, images)}
SIZES = {"attention": ((4, 3), (5, 2)), "filters": 3, "levels": 2}


def plain_convolution(weights, x, dilation):
    """(n, channels), place by place."""
    outs = []
    for i in range(len(x)):
        both = weights["now.weight"] @ x[i] + weights["now.bias"]
        if i >= dilation:
            both = both + weights["past.weight"] @ x[i - dilation]
        filters = len(both) // 2
        outs.append(torch.tanh(both[:filters]) * torch.sigmoid(both[filters:]))
    return torch.stack(outs)


def plain_attention(weights, x):
    query, key, value = (x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"] for name in ("query", "key", "value"))
    outs = []
    for i in range(len(x)):
        weight = torch.softmax(torch.stack([query[i] @ key[j] / key.shape[1] ** 0.5 for j in range(i + 1)]), 0)
        outs.append(sum(w * v for w, v in zip(weight, value[: i + 1], strict=True)))
    return torch.stack(outs)


def plain_snail(weights, x, dilation):
    """(n, channels) → the last place's prediction."""
    x = torch.cat([x, plain_attention(part(weights, "layers.0."), x)], 1)
    for level in range(2):
        x = torch.cat([x, plain_convolution(part(weights, f"layers.{1 + level}."), x, dilation * 2**level)], 1)
    x = torch.cat([x, plain_attention(part(weights, "layers.3."), x)], 1)
    return weights["head.weight"] @ x[-1] + weights["head.bias"]


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind, dilation):
    spec, factory, episodes = KINDS[kind]
    algorithm = SNAIL(spec, factory, dilation=dilation, **SIZES).double()
    weights, tasks = copies(algorithm), episodes(tasks=2)
    shots = tasks.support.x.shape[1]
    torch.manual_seed(3)
    order = torch.rand(2, shots).argsort(1)
    loss = torch.zeros((), dtype=torch.float64)
    for t in range(2):
        x, network = torch.cat([tasks.support.x[t], tasks.query.x[t]]), part(weights, "network.")
        features = torch.relu(plain_mlp(network, x)) if x.dim() == 2 else plain_conv4(network, x)[0]
        y = tasks.support.y[t]
        labels = y if y.is_floating_point() else F.one_hot(y, 3).double()
        support = torch.cat([features[:shots], labels], 1)[order[t]]
        outs = []
        for query in features[shots:]:
            last = torch.cat([query, torch.zeros(labels.shape[1]).double()])
            outs.append(plain_snail(weights, torch.cat([support, last[None]]), dilation))
        loss = loss + plain_loss(torch.stack(outs), tasks.query.y[t]) / 2
    torch.manual_seed(3)
    assert_gradients(algorithm, tasks, loss, weights)


@pytest.mark.parametrize(
    "layer", [CausalConvolution(4, 3, 1), CausalConvolution(4, 3, 4), CausalConvolution(4, 3, 9), CausalAttention(4, 3, 2)]
)
def test_layers_are_causal_and_go_on_where_they_stopped(layer):
    layer.double()
    x = torch.randn(2, 7, 4).double()
    whole = layer(x)
    changed = x.clone()
    changed[:, 5:] += 1
    torch.testing.assert_close(layer(changed)[:, :5], whole[:, :5])
    assert (layer(changed)[:, 5:] - whole[:, 5:]).abs().min() > 0
    for places in range(1, 7):
        torch.testing.assert_close(layer(x[:, places : places + 1], x[:, :places]), whole[:, places : places + 1])

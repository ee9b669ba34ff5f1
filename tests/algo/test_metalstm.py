"""The learned optimizer against its equations, one weight after another."""

import math

import pytest
import torch
from reference import assert_gradients, copies, lstm_cell, part, plain_conv4, plain_loss, plain_mlp
from small import LINE, PICTURES, conv, images, mlp, regression

from metarun.algo.metalstm import LearnedOptimizer, MetaLSTM, preprocess

KINDS = {"mlp": (LINE, mlp, regression, plain_mlp), "conv": (PICTURES, conv, images, lambda w, x: plain_conv4(w, x)[0])}


def scaled(x, p=10.0):
    if abs(x) >= math.exp(-p):
        return [math.log(abs(x)) / p, math.copysign(1.0, x)]
    return [-1.0, math.exp(p) * x]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients(kind, recompute):
    spec, factory, episodes, forward = KINDS[kind]
    steps = 3
    algorithm = MetaLSTM(spec, factory, inner_steps=steps, hidden=3, rate=0.1, recompute=recompute).double()
    with torch.no_grad():  # so that the gates depend on everything
        for w in algorithm.optimizer.parameters():
            w += 0.2 * torch.randn_like(w)
    tasks = episodes(tasks=2)
    leaves = copies(algorithm)
    weights, reader = part(leaves, "network."), part(leaves, "optimizer.reader.")
    gates = {name: part(leaves, f"optimizer.{name}_gate.") for name in ("input", "forget")}
    loss = torch.zeros((), dtype=torch.float64)
    for t in range(len(tasks)):
        fast, state = dict(weights), {}
        for _ in range(steps):
            inner = plain_loss(forward(fast, tasks.support.x[t]), tasks.support.y[t])
            gradients = torch.autograd.grad(inner, list(fast.values()), retain_graph=True)
            moved = {}
            for (name, w), gradient in zip(fast.items(), gradients, strict=True):
                seen = torch.tensor([scaled(g) + scaled(inner.item()) for g in gradient.flatten().tolist()]).double()
                n = len(seen)
                zero = torch.zeros(n, 3, dtype=torch.float64)
                hidden, cell, into, keep = state.get(name, (zero, zero, torch.zeros(n, 1).double(), torch.ones(n, 1).double()))
                hidden, cell = lstm_cell(reader, seen, hidden, cell)
                theta = w.reshape(-1, 1)
                into, keep = (
                    torch.sigmoid(torch.cat([hidden, theta, before], 1) @ gate["weight"].T + gate["bias"])
                    for gate, before in ((gates["input"], into), (gates["forget"], keep))
                )
                moved[name] = (keep * theta - into * gradient.reshape(-1, 1)).view_as(w)
                state[name] = hidden, cell, into, keep
            fast = moved
        loss = loss + plain_loss(forward(fast, tasks.query.x[t]), tasks.query.y[t]) / len(tasks)
    assert_gradients(algorithm, tasks, loss, leaves)


def test_gradients_are_preprocessed_by_magnitude_and_sign():
    x = torch.tensor([0.0, 1e-9, -1e-9, 0.5, -2.0, 1e4], dtype=torch.float64)
    torch.testing.assert_close(preprocess(x, 10.0), torch.tensor([scaled(v) for v in x.tolist()], dtype=torch.float64))


def test_it_begins_as_gradient_descent():
    rule = LearnedOptimizer(5, rate=0.05, scale=10.0)
    weights, gradients = {"w": torch.randn(2, 4)}, {"w": torch.randn(2, 4)}
    moved, _ = rule.move(0, weights, gradients, torch.ones(2), rule.start(weights))
    torch.testing.assert_close(moved["w"], weights["w"] - 0.05 * gradients["w"], rtol=0.02, atol=0.02)

"""Outer gradients in float64 against a plain loop over tasks, against finite differences, and against the textbook."""

import pytest
import torch
from reference import batch_moments, maml_loss, plain_conv4, plain_loss, plain_mlp
from small import LINE, PICTURES, conv, images, mlp, regression, strided

from metarun.algo.maml import MAML
from metarun.algo.protonet import ProtoNet

NETWORKS = {
    "mlp": (LINE, mlp, regression, lambda w, x, m: (plain_mlp(w, x), None)),
    "conv": (PICTURES, conv, images, lambda w, x, m: plain_conv4(w, x, m)),
    "strided": (PICTURES, strided, images, lambda w, x, m: plain_conv4(w, x, m, strided=True)),
}
RATE = 0.3


def gradients(algorithm, episodes):
    algorithm.zero_grad()
    losses = algorithm.backward(episodes)
    return losses, {name: w.grad.clone() for name, w in algorithm.network.weights().items()}


def reference_gradients(forward, algorithm, episodes, **keys):
    weights = {name: w.detach().clone().requires_grad_() for name, w in algorithm.network.weights().items()}
    loss = maml_loss(forward, weights, episodes, rate=RATE, **keys)
    return loss, dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))


def assert_equal(found, expected):
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize(
    ("network", "batch_norm"),
    [("mlp", "transductive"), *((network, mode) for network in ("conv", "strided") for mode in ("transductive", "support"))],
)
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_maml_equals_a_plain_loop(network, first_order, steps, batch_norm):
    spec, factory, episodes, forward = NETWORKS[network]
    algorithm = MAML(spec, factory, RATE, inner_steps=steps, first_order=first_order, batch_norm=batch_norm).double()
    tasks = episodes()
    losses, found = gradients(algorithm, tasks)
    loss, expected = reference_gradients(
        forward, algorithm, tasks, steps=steps, first_order=first_order, support_moments=batch_norm == "support"
    )
    torch.testing.assert_close(losses.mean(), loss.detach(), rtol=1e-10, atol=1e-12)
    assert_equal(found, expected)


@pytest.mark.parametrize("network", NETWORKS)
def test_maml_equals_finite_differences(network):
    spec, factory, episodes, forward = NETWORKS[network]
    algorithm = MAML(spec, factory, RATE, inner_steps=2).double()
    tasks = episodes()
    _, found = gradients(algorithm, tasks)
    weights = {name: w.detach().clone() for name, w in algorithm.network.weights().items()}
    direction = {name: torch.randn_like(w) for name, w in weights.items()}

    def at(distance):
        moved = {name: (w + distance * direction[name]).requires_grad_() for name, w in weights.items()}
        return maml_loss(forward, moved, tasks, rate=RATE, steps=2).item()

    step = 1e-8  # small, so that no ReLU or batch norm bends in between
    slope = sum((found[name] * direction[name]).sum().item() for name in found)
    assert slope == pytest.approx((at(step) - at(-step)) / (2 * step), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
def test_first_order_is_the_query_gradient_at_the_adapted_weights(network):
    spec, factory, episodes, forward = NETWORKS[network]
    algorithm = MAML(spec, factory, RATE, inner_steps=2, first_order=True).double()
    second = MAML(spec, lambda outputs: algorithm.network, RATE, inner_steps=2)
    tasks = episodes()
    _, found = gradients(algorithm, tasks)
    expected = {name: torch.zeros_like(w) for name, w in found.items()}
    for t in range(len(tasks)):
        fast = {name: w.detach().clone().requires_grad_() for name, w in algorithm.network.weights().items()}
        for _ in range(2):
            loss = plain_loss(forward(fast, tasks.support.x[t], None)[0], tasks.support.y[t])
            steps = torch.autograd.grad(loss, list(fast.values()))
            fast = {n: (w - RATE * g).detach().requires_grad_() for (n, w), g in zip(fast.items(), steps, strict=True)}
        loss = plain_loss(forward(fast, tasks.query.x[t], None)[0], tasks.query.y[t]) / len(tasks)
        for name, gradient in zip(fast, torch.autograd.grad(loss, list(fast.values())), strict=True):
            expected[name] += gradient
    assert_equal(found, expected)
    _, full = gradients(second, tasks)
    assert max((full[n] - found[n]).abs().max().item() for n in found) > 1e-3


@pytest.mark.parametrize("network", NETWORKS)
def test_chunks_of_tasks_change_nothing(network):
    spec, factory, episodes, _ = NETWORKS[network]
    algorithm = MAML(spec, factory, RATE, inner_steps=2).double()
    tasks = episodes(tasks=5)
    losses, whole = gradients(algorithm, tasks)
    algorithm.task_chunk = 2
    parts_losses, parts = gradients(algorithm, tasks)
    torch.testing.assert_close(parts_losses, losses, rtol=1e-10, atol=1e-12)
    assert_equal(parts, whole)


def test_frozen_weights_do_not_adapt_but_learn():
    algorithm = MAML(PICTURES, conv, RATE, inner_steps=2, frozen=("norms.*", "convs.*")).double()
    assert algorithm.frozen == {n for n in algorithm.network.weights() if not n.startswith("head")}
    tasks = images()
    _, found = gradients(algorithm, tasks)
    _, expected = reference_gradients(lambda w, x, m: plain_conv4(w, x, m), algorithm, tasks, steps=2, frozen=algorithm.frozen)
    assert_equal(found, expected)
    assert found["convs.0.weight"].abs().max() > 0


@pytest.mark.parametrize("batch_norm", ["running", "transductive", "support"])
def test_protonet_equals_a_plain_loop(batch_norm):
    algorithm = ProtoNet(PICTURES, conv, batch_norm=batch_norm).double()
    tasks = images(tasks=2, ways=4, shots=2, queries=3)
    losses, found = gradients(algorithm, tasks)
    weights = {name: w.detach().clone().requires_grad_() for name, w in algorithm.network.weights().items()}
    total = 0.0
    for t in range(2):
        support, query = tasks.support.x[t], tasks.query.x[t]
        if batch_norm == "running":  # in training one batch of both
            both, _ = plain_conv4(weights, torch.cat([support, query]))
            embedded, queries = both[: len(support)], both[len(support) :]
        else:
            embedded, moments = plain_conv4(weights, support)
            queries, _ = plain_conv4(weights, query, moments if batch_norm == "support" else None)
        means = torch.stack([embedded[tasks.support.y[t] == c].mean(0) for c in range(4)])
        logits = -torch.stack([torch.stack([((q - m) ** 2).sum() for m in means]) for q in queries])
        total = total + plain_loss(logits, tasks.query.y[t]) / 2
    torch.testing.assert_close(losses.mean(), total.detach(), rtol=1e-9, atol=1e-10)
    expected = dict(zip(weights, torch.autograd.grad(total, list(weights.values())), strict=True))
    assert_equal(found, expected)


def test_running_statistics_are_the_mean_over_tasks_written_once_an_update():
    algorithm = ProtoNet(PICTURES, conv, task_chunk=1).double()
    tasks = images(tasks=3)
    before = algorithm.network.statistics.values()["0"][0].clone()
    x = torch.cat([tasks.support.x, tasks.query.x], 1)
    weight = algorithm.network.weights()["convs.0.weight"]
    moments = [batch_moments(torch.nn.functional.conv2d(one, weight, padding=1)) for one in x]
    algorithm.backward(tasks)
    mean, var = algorithm.network.statistics.values()["0"]
    torch.testing.assert_close(mean, 0.9 * before + 0.1 * torch.stack([m for m, _ in moments]).mean(0))
    n = x.shape[1] * 16 * 16
    torch.testing.assert_close(var, 0.9 + 0.1 * torch.stack([v for _, v in moments]).mean(0) * n / (n - 1))


@pytest.mark.parametrize("make", [lambda: MAML(PICTURES, conv, RATE, batch_norm="running"), lambda: ProtoNet(PICTURES, conv)])
def test_a_test_writes_no_statistics_and_needs_no_other_query(make):
    algorithm = make().double()
    algorithm.backward(images())
    algorithm.eval()
    before = {name: value.clone() for name, value in algorithm.state_dict().items()}
    tasks = images()
    with torch.no_grad():
        state = algorithm.adapt(tasks.support)
        together = algorithm.predict(state, tasks.query.x)
        alone = algorithm.predict(state, tasks.query.x[:, :1])
    torch.testing.assert_close(together[:, :1], alone)
    for name, value in algorithm.state_dict().items():
        assert torch.equal(value, before[name])


def test_trajectory_ends_where_adaptation_ends():
    algorithm = MAML(PICTURES, conv, RATE, inner_steps=2, batch_norm="support").double().eval()
    tasks = images()
    with torch.no_grad():
        path = algorithm.trajectory(tasks.support, tasks.query.x, 4)
        last = algorithm.predict(algorithm.adapt(tasks.support, 4), tasks.query.x)
    assert path.shape == (5, 3, 6, 3)
    torch.testing.assert_close(path[-1], last)
    assert not path.requires_grad


@pytest.mark.parametrize("network", ["conv", "strided"])
@pytest.mark.parametrize("steps", [1, 2])
def test_in_bfloat16_the_gradient_points_the_same_way(network, steps):
    spec, factory, episodes, _ = NETWORKS[network]
    torch.manual_seed(0)
    algorithm, tasks = MAML(spec, factory, 0.01, inner_steps=steps), episodes(dtype=torch.float32)
    _, expected = gradients(algorithm, tasks)
    with torch.autocast("cpu", torch.bfloat16):
        _, found = gradients(algorithm, tasks)
    a, b = (torch.cat([g.flatten() for g in of.values()]) for of in (found, expected))
    assert torch.cosine_similarity(a, b, dim=0) > 0.98

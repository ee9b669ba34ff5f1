"""Rules of inner steps, and recomputing them."""

from functools import partial

import pytest
import torch
from reference import gradients_of, peak_saved_bytes
from small import LINE, PICTURES, conv, images, mlp, regression

from metarun.algo.algorithm import recorded_steps
from metarun.algo.inner_loop import inner_loop
from metarun.algo.maml import MAML
from metarun.algo.rules import Adam, LearnedRates

KINDS = {"mlp": (LINE, mlp, regression), "conv": (PICTURES, conv, images)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first_order", [False, True])
def test_recomputed_steps_give_the_same_gradient(kind, first_order):
    spec, factory, episodes = KINDS[kind]
    algorithm = MAML(spec, factory, 0.1, inner_steps=3, first_order=first_order).double()
    again = MAML(spec, lambda outputs: algorithm.network, 0.1, inner_steps=3, first_order=first_order, recompute=True)
    tasks = episodes()
    losses, found = gradients_of(algorithm, tasks)
    other_losses, other = gradients_of(again, tasks)
    torch.testing.assert_close(other_losses, losses)
    for name, gradient in found.items():
        torch.testing.assert_close(other[name], gradient, rtol=1e-9, atol=1e-12)


def test_recomputing_keeps_the_activations_of_one_step():
    tasks = images(tasks=2, shots=5, dtype=torch.float32)
    peak = {
        (recompute, steps): peak_saved_bytes(
            partial(MAML(PICTURES, conv, 0.1, inner_steps=steps, recompute=recompute).backward, tasks)
        )
        for recompute in (False, True)
        for steps in (1, 6)
    }
    assert peak[False, 6] > 4 * peak[False, 1]
    assert peak[True, 6] < 1.2 * peak[True, 1]  # each step's weights come on top


@pytest.mark.parametrize("beta1", [0.0, 0.9])
def test_adam_is_torchs_adam_for_each_task(beta1):
    tasks = regression(tasks=3)
    network = mlp(1).double()

    def losses(step, weights):
        return (network(weights, tasks.support.x) - tasks.support.y).square().flatten(1).mean(1)

    with torch.no_grad():
        *_, (fast, _) = inner_loop(losses, network.weights(), 3, Adam(0.05, beta1=beta1), 4)
    for t in range(3):
        twin = mlp(1).double()
        twin.load_state_dict(network.state_dict())
        optimizer = torch.optim.Adam(twin.parameters(), lr=0.05, betas=(beta1, 0.999))
        for _ in range(4):
            optimizer.zero_grad()
            (twin(twin.weights(), tasks.support.x[t : t + 1]) - tasks.support.y[t : t + 1]).square().mean().backward()
            optimizer.step()
        for name, w in twin.weights().items():
            torch.testing.assert_close(fast[name][t], w.detach(), rtol=1e-9, atol=1e-12)


def test_second_moments_are_carried_from_task_to_task():
    tasks = regression(tasks=2)
    network = mlp(1).double()

    def losses(step, weights):
        return (network(weights, tasks.support.x) - tasks.support.y).square().flatten(1).mean(1)

    with torch.no_grad():
        *_, (whole, _) = inner_loop(losses, network.weights(), 2, Adam(0.05, beta1=0.0), 2)
        *_, (half, carried) = inner_loop(losses, network.weights(), 2, Adam(0.05, beta1=0.0), 1)
        seconds = {name: carried[f"second.{name}"] for name in half}
        rule = Adam(0.05, beta1=0.0, seconds=(seconds, torch.tensor(1.0, dtype=torch.float64)))
        gradients = torch.func.grad(lambda w: losses(0, w).sum())(half)
        moved, _ = rule.move(0, half, gradients, losses(0, half), rule.start(half))
    for name, w in whole.items():
        torch.testing.assert_close(moved[name], w)


def test_learned_rates_by_weight_and_by_step():
    weights = mlp(1).weights()
    of_weights = LearnedRates(weights, (0.1, 0.2), each="weight")
    assert of_weights(3, "layers.0.weight").shape == weights["layers.0.weight"].shape
    assert 0.1 <= of_weights.rates[0].min() < of_weights.rates[0].max() <= 0.2
    of_steps = LearnedRates(weights, 0.3, each="tensor", steps=2)
    assert of_steps(0, "layers.0.weight").shape == ()
    with torch.no_grad():
        of_steps.rates[0][1] = 7.0
    assert [of_steps(step, "layers.0.weight").item() for step in (0, 1, 5)] == pytest.approx([0.3, 7.0, 7.0])


def test_a_test_looks_after_few_of_many_steps():
    assert recorded_steps(3) == [0, 1, 2, 3]
    assert recorded_steps(10) == list(range(11))
    assert recorded_steps(50) == [0, 1, 2, 5, 10, 20, 50]
    assert recorded_steps(120) == [0, 1, 2, 5, 10, 20, 50, 100, 120]

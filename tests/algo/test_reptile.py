"""Reptile against training a plain network on each task."""

import pytest
import torch
from reference import gradients_of, plain_conv4, plain_loss, plain_mlp
from small import LINE, PICTURES, conv, images, mlp, regression

from metarun.algo.reptile import Reptile

KINDS = {"mlp": (LINE, mlp, regression, plain_mlp), "conv": (PICTURES, conv, images, lambda w, x: plain_conv4(w, x)[0])}
OPTIMIZERS = {
    "sgd": lambda weights: torch.optim.SGD(weights, lr=0.1),
    "adam": lambda weights: torch.optim.Adam(weights, lr=0.1, betas=(0.0, 0.999)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("batch", [None, 3])
def test_the_outer_gradient_is_the_way_back_from_where_training_ends(kind, optimizer, batch):
    spec, factory, episodes, forward = KINDS[kind]
    algorithm = Reptile(spec, factory, 0.1, inner_steps=4, inner_batch=batch, inner_optimizer=optimizer).double()
    tasks = episodes(tasks=2)
    torch.manual_seed(5)
    batches = algorithm.batches(tasks.support, 4)
    torch.manual_seed(5)
    losses, found = gradients_of(algorithm, tasks)
    ends = []
    for t in range(len(tasks)):
        weights = {name: w.detach().clone().requires_grad_() for name, w in algorithm.network.weights().items()}
        steps = OPTIMIZERS[optimizer](list(weights.values()))
        for examples in batches:
            steps.zero_grad()
            plain_loss(forward(weights, examples.x[t]), examples.y[t]).backward()
            steps.step()
        ends.append(weights)
    for name, w in algorithm.network.weights().items():
        mean = torch.stack([end[name].detach() for end in ends]).mean(0)
        torch.testing.assert_close(found[f"network.{name}"], (w - mean).detach(), rtol=1e-8, atol=1e-10)
    assert losses.shape == (2,)


def test_its_gradient_is_the_losss_times_the_gradient_scale():
    """To the first order in the inner rate, where inner steps are plain gradient steps."""
    tasks = regression(tasks=2)
    algorithm = Reptile(LINE, mlp, 1e-7, inner_steps=3, inner_batch=None, inner_optimizer="sgd").double()
    _, found = gradients_of(algorithm, tasks)
    for name, w in algorithm.named_parameters():
        weights = dict(algorithm.network.weights())
        losses = [plain_loss(plain_mlp(weights, x), y) for x, y in zip(tasks.support.x, tasks.support.y, strict=True)]
        (gradient,) = torch.autograd.grad(torch.stack(losses).mean(), w)
        torch.testing.assert_close(found[name], algorithm.gradient_scale * gradient, rtol=1e-5, atol=1e-12)


def test_minibatches_go_through_the_support_set_before_they_repeat():
    algorithm = Reptile(LINE, mlp, 0.1, inner_batch=4)
    tasks = regression(tasks=2, shots=6)
    seen = torch.cat([batch.x[0] for batch in algorithm.batches(tasks.support, 6)]).flatten()
    for start in range(0, 24, 6):
        assert torch.equal(seen[start : start + 6].sort().values, tasks.support.x[0].flatten().sort().values)
    algorithm.eval()
    algorithm.test_batch = 4
    first, again = (algorithm.batches(tasks.support, 3)[2].x for _ in range(2))
    assert torch.equal(first, again)


def test_chunks_change_nothing_and_moments_are_carried():
    tasks = regression(tasks=4)
    algorithm = Reptile(LINE, mlp, 0.1, inner_steps=2, inner_batch=None).double()
    twin = Reptile(LINE, mlp, 0.1, inner_steps=2, inner_batch=None, task_chunk=3).double()
    twin.load_state_dict(algorithm.state_dict())
    for learner in (algorithm, twin):
        learner.backward(tasks)
    for name, value in algorithm.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name], value)
    assert algorithm.count == 2
    assert algorithm.second_0.abs().max() > 0
    before = {name: value.clone() for name, value in algorithm.state_dict().items()}
    algorithm.eval()
    with torch.no_grad():
        algorithm.trajectory(tasks.support, tasks.query.x, 3)
    for name, value in algorithm.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("chunk", [1, 2, 3, None])
def test_all_tasks_of_an_update_take_the_same_minibatches_whatever_the_chunk(optimizer, chunk):
    tasks = images(tasks=5, shots=4)
    whole = Reptile(PICTURES, conv, 0.1, inner_steps=5, inner_batch=5, inner_optimizer=optimizer).double()
    whole.task_chunk = 5
    parts = Reptile(PICTURES, conv, 0.1, inner_steps=5, inner_batch=5, inner_optimizer=optimizer).double()
    parts.load_state_dict(whole.state_dict())
    parts.task_chunk = chunk
    found = []
    for learner in (whole, parts):
        torch.manual_seed(5)
        found.append(gradients_of(learner, tasks))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(parts.state_dict(), whole.state_dict(), rtol=1e-9, atol=1e-11)


def test_without_transduction_a_query_is_normalised_with_the_support_set_alone():
    tasks = images(tasks=2)
    algorithm = Reptile(PICTURES, conv, 0.1, batch_norm="one_query").double().eval()
    with torch.no_grad():
        state = algorithm.adapt(tasks.support, 2)
        found = algorithm.predict(state, tasks.query.x)
        for t in range(2):
            weights = {name: w[t] for name, w in state.weights.items()}
            for q, query in enumerate(tasks.query.x[t]):
                both, _ = plain_conv4(weights, torch.cat([tasks.support.x[t], query.unsqueeze(0)]))
                torch.testing.assert_close(found[t, q], both[-1])


def test_a_test_of_single_queries_looks_at_the_first_and_the_last_step():
    tasks = images(tasks=2)
    algorithm = Reptile(PICTURES, conv, 0.1, batch_norm="one_query").double().eval()
    with torch.no_grad():
        path = algorithm.trajectory(tasks.support, tasks.query.x, 3)
        last = algorithm.predict(algorithm.adapt(tasks.support, 3), tasks.query.x)
    assert algorithm.eval_steps(3) == [0, 3]
    assert len(path) == 2
    torch.testing.assert_close(path[-1], last)
    assert Reptile(PICTURES, conv, 0.1, batch_norm="transductive").eval_steps(3) == [0, 1, 2, 3]

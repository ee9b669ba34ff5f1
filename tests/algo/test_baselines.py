"""The baselines against ordinary training and ordinary neighbours."""

from dataclasses import replace

import pytest
import torch
from reference import assert_gradients, copies, part, plain_conv4, plain_loss, plain_mlp
from small import LINE, PICTURES, conv, images, mlp, regression
from torch.nn import functional as F

from metarun.algo.finetune import Finetune, Scratch
from metarun.algo.metric_space import squared_distances
from metarun.algo.nearest import Nearest
from metarun.algo.oracle import Oracle
from metarun.config import ConfigError
from metarun.data.sine import Sine
from metarun.episodes import Episodes, Examples
from metarun.model.mlp import MLP

KNOWN = replace(PICTURES, train_classes=7)


def with_numbers(tasks):
    numbers = torch.stack([torch.randperm(7)[:3] for _ in range(len(tasks))])
    return Episodes(tasks.support, tasks.query, {"classes": numbers})


def test_pooled_training_is_one_batch_over_all_training_classes():
    algorithm = Finetune(KNOWN, conv, inner_lr=0.1).double()
    tasks = with_numbers(images())
    leaves = copies(algorithm)
    x = torch.cat([torch.cat([tasks.support.x[t], tasks.query.x[t]]) for t in range(3)])
    y = torch.cat([tasks.context["classes"][t][torch.cat([tasks.support.y[t], tasks.query.y[t]])] for t in range(3)])
    features, _ = plain_conv4(part(leaves, "network."), x)
    loss = F.cross_entropy(F.linear(features, leaves["head.weight"], leaves["head.bias"]), y)
    assert_gradients(algorithm, tasks, loss, leaves)


def test_pooled_regression():
    algorithm = Finetune(LINE, mlp, inner_lr=0.1).double()
    tasks = regression()
    leaves = copies(algorithm)
    x, y = (torch.cat([a, b], 1).flatten(0, 1) for a, b in zip(tasks.support[:2], tasks.query[:2], strict=True))
    features = torch.relu(plain_mlp(part(leaves, "network."), x))
    assert_gradients(algorithm, tasks, plain_loss(F.linear(features, leaves["head.weight"], leaves["head.bias"]), y), leaves)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("tune", ["all", "head"])
def test_fine_tuning_is_torchs_optimizer_on_a_new_head(optimizer, tune):
    algorithm = (
        Finetune(KNOWN, conv, inner_lr=0.05, tune=tune, inner_optimizer=optimizer, batch_norm="transductive").double().eval()
    )
    tasks = images(tasks=2)
    with torch.no_grad():
        found = algorithm.predict(algorithm.adapt(tasks.support, 3), tasks.query.x)
    for t in range(2):
        body = part(copies(algorithm), "network.")
        head = [torch.zeros(3, body["norms.3.bias"].numel() * 1, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)]
        head = [w.requires_grad_() for w in head]
        kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
        steps = kind([*head, *(body.values() if tune == "all" else [])], lr=0.05)
        for _ in range(3):
            steps.zero_grad()
            plain_loss(F.linear(plain_conv4(body, tasks.support.x[t])[0], *head), tasks.support.y[t]).backward()
            steps.step()
        expected = F.linear(plain_conv4(body, tasks.query.x[t])[0], *head)
        torch.testing.assert_close(found[t], expected.detach(), rtol=1e-6, atol=1e-8)


def test_without_steps_regression_is_plain_supervised_learning():
    algorithm = Finetune(LINE, mlp, inner_lr=0.1, test_steps=0).double().eval()
    tasks = regression()
    with torch.no_grad():
        path = algorithm.predictions(tasks, algorithm.steps)
    assert len(path) == 1
    torch.testing.assert_close(path[0][0], algorithm.head(torch.relu(plain_mlp(algorithm.network.weights(), tasks.query.x[0]))))


def test_classes_must_be_numbered():
    with pytest.raises(ConfigError, match="do not number them"):
        Finetune(PICTURES, conv, inner_lr=0.1)


def test_scratch_learns_each_task_from_the_same_start():
    algorithm = Scratch(LINE, mlp, inner_lr=0.05, test_steps=200).eval()
    assert not algorithm.trains
    tasks = regression(tasks=2, dtype=torch.float32)
    with torch.no_grad():
        path = algorithm.trajectory(tasks.support, tasks.support.x, 200)
    torch.testing.assert_close(path[0][0], algorithm.network(algorithm.network.weights(), tasks.support.x)[0])
    before, after = ((p - tasks.support.y).square().mean() for p in (path[0], path[-1]))
    assert after < before / 4


@pytest.mark.parametrize("space", ["inputs", "embedding"])
def test_nearest_neighbour(space):
    algorithm = Nearest(KNOWN, conv, space=space, batch_norm="support").double().eval()
    tasks = images(tasks=2)
    with torch.no_grad():
        found = algorithm.predictions(tasks)[0].argmax(-1)
        for t in range(2):
            support, query = tasks.support.x[t].flatten(1), tasks.query.x[t].flatten(1)
            if space == "embedding":
                support, moments = plain_conv4(algorithm.network.weights(), tasks.support.x[t])
                query, _ = plain_conv4(algorithm.network.weights(), tasks.query.x[t], moments)
            nearest = [min(range(len(support)), key=lambda i, q=q: (q - support[i]).square().sum()) for q in query]
            assert found[t].tolist() == tasks.support.y[t][nearest].tolist()


def test_nearest_neighbour_on_regression_takes_its_target():
    algorithm = Nearest(LINE, mlp).double().eval()
    tasks = regression(tasks=2)
    found = algorithm.predictions(tasks)[0]
    for t in range(2):
        for q, x in enumerate(tasks.query.x[t]):
            assert found[t, q] == tasks.support.y[t][(tasks.support.x[t] - x).abs().argmin()]


@pytest.mark.parametrize("offset", [0.0, 1000.0, 10000.0])
def test_the_nearest_neighbour_is_found_far_from_zero(offset):
    tasks = regression(tasks=20, shots=40, queries=30, dtype=torch.float32)
    support, query = (part._replace(x=offset + 5 + 5 * part.x.clamp(-1, 1)) for part in (tasks.support, tasks.query))
    algorithm = Nearest(LINE, mlp).eval()
    found = algorithm.predict(algorithm.adapt(support), query.x)
    nearest = (query.x.double() - support.x.double().mT).abs().argmin(-1, keepdim=True)
    torch.testing.assert_close(found, support.y.gather(1, nearest), rtol=0, atol=0)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_squared_distances_and_their_gradients(offset):
    a, b = (offset + torch.randn(3, n, 4) for n in (5, 6))
    exact = [part.double().requires_grad_() for part in (a, b)]
    expected = (exact[0].unsqueeze(2) - exact[1].unsqueeze(1)).square().sum(-1)
    for_all = torch.randn_like(expected)
    gradients = torch.autograd.grad(expected, exact, for_all)
    given = [part.requires_grad_() for part in (a, b)]
    found = squared_distances(*given)
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.autograd.grad(found, given, for_all.float()), tuple(g.float() for g in gradients))


def test_a_class_without_an_example_is_nobodys_neighbour_and_predictions_stay_finite():
    algorithm = Nearest(KNOWN, conv).double().eval()
    tasks = images(tasks=1)
    present = tasks.support.y[0] != 1
    found = algorithm.predict(algorithm.adapt(Examples(tasks.support.x[:, present], tasks.support.y[:, present], 3)), tasks.query.x)
    assert found.isfinite().all()
    assert 1 not in found.argmax(-1)


def test_an_embedding_that_is_not_finite_has_no_nearest_target():
    algorithm = Nearest(LINE, mlp).eval()
    tasks = regression(tasks=2, dtype=torch.float32)
    tasks.support.x[0, 0] = torch.nan
    found = algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x)
    assert found[0].isnan().all()
    assert found[1].isfinite().all()


def test_the_oracle_is_told_the_task():
    data = Sine(0)
    assert data.spec.parameters == ("amplitude", "phase", "frequency")
    algorithm = Oracle(data.spec, lambda outputs, shape: MLP(shape, outputs, widths=[7]))
    source = data.stages(torch.device("cpu"))[0].train
    tasks = source.sample(torch.arange(3))
    losses = algorithm.backward(tasks)
    told = torch.cat([tasks.query.x, torch.stack([tasks.context[n] for n in data.spec.parameters], 2).expand(-1, 10, -1)], 2)
    expected = torch.stack([plain_loss(plain_mlp(algorithm.network.weights(), told[t]), tasks.query.y[t]) for t in range(3)])
    torch.testing.assert_close(losses, expected.detach())
    with pytest.raises(ConfigError, match="these data have none"):
        Oracle(LINE, mlp)

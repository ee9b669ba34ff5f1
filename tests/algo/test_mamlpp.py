"""MAML++ against a plain loop: rates and norms of each step, the multi-step loss and its annealing."""

import pytest
import torch
from reference import assert_gradients, copies, descend, gradients_of, part, plain_conv4, plain_loss
from small import LINE, PICTURES, conv, images, mlp, regression

from metarun.algo.mamlpp import MAMLpp

STEPS = 3


def learner(**keys):
    algorithm = MAMLpp(PICTURES, conv, 0.2, inner_steps=STEPS, test_steps=5, **keys).double()
    with torch.no_grad():  # so that steps differ
        for own in algorithm.own:
            own += 0.1 * torch.randn_like(own)
        for rates in algorithm.rates.rates:
            rates *= 0.5 + torch.rand_like(rates)
    return algorithm


@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_gradients(progress):
    algorithm = learner(multi_step=0.8)
    algorithm.progress = progress
    tasks = images()
    leaves = copies(algorithm)
    weights = {name: w for name, w in part(leaves, "network.").items() if not name.startswith("norms")}
    rates = dict(zip(weights, part(leaves, "rates.rates.").values(), strict=True))
    own = dict(zip(algorithm.own_names, part(leaves, "own.").values(), strict=True))
    early = {0.0: 1 / 3, 0.4: 1 / 6, 1.0: 0.0}[progress]
    importance = [early, early, 1 - 2 * early]
    loss = torch.zeros((), dtype=torch.float64)
    for t in range(len(tasks)):

        def loss_on(examples, step, w, t=t):
            return plain_loss(plain_conv4(w | {n: v[step] for n, v in own.items()}, examples.x[t])[0], examples.y[t])

        path = descend(lambda step, w: loss_on(tasks.support, step, w), weights, lambda step, n: rates[n][step], STEPS)
        for step in range(STEPS):
            loss = loss + importance[step] * loss_on(tasks.query, step, path[step + 1]) / len(tasks)
    assert_gradients(algorithm, tasks, loss, leaves)


def test_the_last_step_takes_over_and_no_step_vanishes_before():
    algorithm = learner(multi_step=0.5)
    for progress, early in ((0.0, 1 / 3), (0.25, 1 / 6), (0.49999, 0.01)):
        algorithm.progress = progress
        assert algorithm.step_weights() == pytest.approx([early, early, 1 - 2 * early], abs=1e-4)


def test_running_statistics_of_each_step():
    algorithm = learner(batch_norm="running", multi_step=1.0)
    algorithm.backward(images())
    means = [of_step.values()["0"][0] for of_step in algorithm.step_statistics]
    assert all(mean.abs().max() > 0 for mean in means)
    assert not torch.allclose(means[0], means[1])
    tasks = images()
    algorithm.eval()
    with torch.no_grad():
        path = algorithm.trajectory(tasks.support, tasks.query.x, 5)
        alone = algorithm.trajectory(tasks.support, tasks.query.x[:, :1], 5)
    assert path.shape[0] == 6  # two steps more than training had: they take the last one's
    torch.testing.assert_close(path[:, :, :1], alone)


@pytest.mark.parametrize("keys", [{}, {"recompute": True}, {"task_chunk": 2}])
@pytest.mark.parametrize("multi_step", [0.0, 1.0])
def test_running_statistics_of_a_step_move_with_every_pass_at_it(multi_step, keys):
    """Step k: the support set before update k, and the queries after it where they are scored; a tenth towards their mean."""
    algorithm = learner(batch_norm="running", multi_step=multi_step, **keys)
    tasks = images(tasks=3)
    leaves = copies(algorithm)
    weights = {name: w for name, w in part(leaves, "network.").items() if not name.startswith("norms")}
    rates = dict(zip(weights, part(leaves, "rates.rates.").values(), strict=True))
    own = dict(zip(algorithm.own_names, part(leaves, "own.").values(), strict=True))
    seen = [[] for _ in range(STEPS)]
    for t in range(3):

        def passed(step, w, x):
            out, moments = plain_conv4(w | {n: v[step] for n, v in own.items()}, x)
            count = [len(x) * (16 // 2**layer) ** 2 for layer in range(4)]
            seen[step].append([(mean, var * n / (n - 1)) for (mean, var), n in zip(moments, count, strict=True)])
            return out

        path = descend(
            lambda step, w, t=t: plain_loss(passed(step, w, tasks.support.x[t]), tasks.support.y[t]),
            weights,
            lambda step, n: rates[n][step],
            STEPS,
        )
        for step in range(STEPS):
            if multi_step or step == STEPS - 1:
                passed(step, path[step + 1], tasks.query.x[t])
    algorithm.backward(tasks)
    for step, of_step in enumerate(algorithm.step_statistics):
        for layer, (mean, var) in enumerate(of_step.values().values()):
            means, variances = (torch.stack([moments[layer][i] for moments in seen[step]]) for i in (0, 1))
            torch.testing.assert_close(mean, 0.1 * means.mean(0).detach())
            torch.testing.assert_close(var, 0.9 + 0.1 * variances.mean(0).detach())


def test_first_order_at_first():
    algorithm = learner(first_order_until=0.5, multi_step=0.0)
    tasks = images()
    found = {}
    for algorithm.progress in (0.0, 0.6):
        found[algorithm.progress] = gradients_of(algorithm, tasks)[1]["network.convs.0.weight"]
    assert not torch.allclose(found[0.0], found[0.6])


def test_a_network_without_norms():
    losses = MAMLpp(LINE, mlp, 0.1).double().backward(regression())
    assert losses.isfinite().all()


@pytest.mark.parametrize(
    ("until", "progress", "first"), [(0.0, 0.0, False), (0.5, 0.0, True), (0.5, 0.49, True), (0.5, 0.5, False)]
)
def test_the_order_of_the_gradient_follows_from_progress_alone(until, progress, first):
    """Also before the first update, when a method may already ask for gradients of the outputs."""
    algorithm = learner(first_order_until=until)
    algorithm.progress = progress
    assert algorithm.first_order is (progress < until)

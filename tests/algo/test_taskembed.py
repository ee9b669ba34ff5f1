"""Task embedding against a plain loop over tasks: conditions, the metric loss, Reptile's update, the nearest training task."""

import pytest
import torch
from reference import assert_gradients, copies, descend, gradients_of, part, plain_conv4, plain_loss, plain_mlp
from small import LINE, PICTURES, conv, images, mlp, regression
from torch import nn
from torch.nn import functional as F

from metarun.algo.meta_features import count, meta_features
from metarun.algo.taskembed import TaskEmbed
from metarun.config import ConfigError, RangeError
from metarun.episodes import Examples
from metarun.model.network import as_network

RATE = 0.3
KINDS = {"mlp": (LINE, mlp, regression), "conv": (PICTURES, conv, images)}


def learner(spec=LINE, factory=mlp, **keys):
    """With conditions that do something from the start."""
    made = TaskEmbed(spec, factory, RATE, size=4, width=5, **keys).double()
    for w in made.conditions[-1].parameters():
        nn.init.normal_(w, std=0.3)
    return made


def perceptron(weights, x):
    last = max(int(name.partition(".")[0]) for name in weights)
    for i in range(0, last + 1, 2):
        x = x @ weights[f"{i}.weight"].T + weights[f"{i}.bias"]
        x = torch.relu(x) if i < last else x
    return x


def plain_vector(weights, x, y):
    """One task's examples as a vector."""
    network = part(weights, "embedding.")
    features = torch.relu(plain_mlp(network, x)) if x.dim() == 2 else plain_conv4(network, x)[0]
    labels = y if y.is_floating_point() else F.one_hot(y, 3).double()
    mean = perceptron(part(weights, "set_encoder.each."), torch.cat([features, labels], 1)).mean(0)
    return weights["to_vector.weight"] @ mean + weights["to_vector.bias"]


def plain_film_mlp(weights, x, made):
    """Hidden layers of widths 7 and 6, scaled by 1 + … and shifted; ``made`` is in the order of the layers."""
    scale_0, shift_0, scale_1, shift_1 = made.split([7, 7, 6, 6])
    x = torch.relu((x @ weights["layers.0.weight"].T + weights["layers.0.bias"]) * (1 + scale_0) + shift_0)
    x = torch.relu((x @ weights["layers.1.weight"].T + weights["layers.1.bias"]) * (1 + scale_1) + shift_1)
    return x @ weights["layers.2.weight"].T + weights["layers.2.bias"]


def plain_task(weights, tasks, t, kind, condition, steps):
    """(query loss, start, end) of one task after ``steps`` inner steps."""
    own = dict(part(weights, "network."))
    made = perceptron(part(weights, "conditions."), plain_vector(weights, tasks.support.x[t], tasks.support.y[t]))
    start = own
    if condition == "gates":
        gates = made.split([len(w) for w in own.values()])
        start = {
            name: w * (1 + torch.tanh(g)).view(-1, *(1,) * (w.dim() - 1)) for (name, w), g in zip(own.items(), gates, strict=True)
        }

    def forward(w, x):
        if condition == "film":
            return plain_film_mlp(w, x, made)
        return plain_mlp(w, x) if kind == "mlp" else plain_conv4(w, x)[0]

    fast = descend(
        lambda step, w: plain_loss(forward(w, tasks.support.x[t]), tasks.support.y[t]), start, lambda step, name: RATE, steps
    )[-1]
    return plain_loss(forward(fast, tasks.query.x[t]), tasks.query.y[t]), start, fast


@pytest.mark.parametrize(("kind", "condition"), [("mlp", "film"), ("mlp", "gates"), ("conv", "gates")])
@pytest.mark.parametrize("steps", [1, 2])
def test_gradients(kind, condition, steps):
    spec, factory, episodes = KINDS[kind]
    algorithm, tasks = learner(spec, factory, inner_steps=steps, condition=condition), episodes()
    weights = copies(algorithm)
    loss = sum(plain_task(weights, tasks, t, kind, condition, steps)[0] for t in range(3)) / 3
    assert_gradients(algorithm, tasks, loss, weights)


@pytest.mark.parametrize(("kind", "condition"), [("mlp", "film"), ("mlp", "gates"), ("conv", "film"), ("conv", "gates")])
@pytest.mark.parametrize("encoder", ["set", "similarity", "features"])
@pytest.mark.parametrize("keys", [{"inner_steps": 1}, {"inner_steps": 3}, {"inner_steps": 2, "outer": "reptile"}])
def test_recomputed_steps_give_the_same_gradient(kind, condition, encoder, keys):
    spec, factory, episodes = KINDS[kind]
    algorithm = learner(spec, factory, condition=condition, encoder=encoder, **keys)
    again = learner(spec, factory, condition=condition, encoder=encoder, recompute=True, **keys)
    again.load_state_dict(algorithm.state_dict())
    tasks = episodes()
    losses, found = gradients_of(algorithm, tasks)
    other_losses, other = gradients_of(again, tasks)
    torch.testing.assert_close(other_losses, losses)
    assert other.keys() == found.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(other[name], gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("condition", ["film", "gates"])
def test_without_conditions_it_is_the_shared_initialisation(condition):
    algorithm, tasks = TaskEmbed(PICTURES, conv, RATE, condition=condition).double(), images()
    with torch.no_grad():
        plain = algorithm.network(algorithm.network.weights(), tasks.query.x)
        torch.testing.assert_close(algorithm.predict(algorithm.adapt(tasks.support, 0), tasks.query.x), plain)


def test_reptile_moves_the_initialisation_to_where_the_steps_end():
    algorithm, tasks = learner(inner_steps=3, outer="reptile"), regression(tasks=5)
    algorithm.task_chunk = 2
    _, found = gradients_of(algorithm, tasks)
    weights = copies(algorithm)
    ends = [plain_task(weights, tasks, t, "mlp", "film", 3) for t in range(5)]
    for name in algorithm.network.weights():
        away = sum(start[name] - end[name] for _, start, end in ends) / 5
        torch.testing.assert_close(found[f"network.{name}"], away.detach())
    assert found["to_vector.weight"].abs().max() > 1e-6


def test_the_metric_loss_alone_trains_the_encoder():
    algorithm, tasks = learner(encoder="similarity", temperature=0.2), regression()
    _, found = gradients_of(algorithm, tasks)
    weights = copies(algorithm)
    of = {}
    for name, examples in (("support", tasks.support), ("query", tasks.query)):
        of[name] = [F.normalize(plain_vector(weights, examples.x[t], examples.y[t]), dim=0) for t in range(3)]
    likeness = torch.stack([torch.stack([a @ b for b in of["query"]]) for a in of["support"]]) / 0.2
    loss = F.cross_entropy(likeness, torch.arange(3))
    names = [name for name in weights if name.startswith(("embedding", "set_encoder", "to_vector"))]
    for name, gradient in zip(names, torch.autograd.grad(loss, [weights[name] for name in names]), strict=True):
        torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-10)
    assert found["conditions.2.weight"].abs().max() > 1e-6


@pytest.mark.parametrize("encoder", ["set", "similarity", "features"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_task_vector_ignores_the_order_of_the_examples(encoder, kind):
    spec, factory, episodes = KINDS[kind]
    algorithm, support = learner(spec, factory, encoder=encoder), episodes().support
    order = torch.randperm(support.x.shape[1])
    vectors = algorithm.task_vectors(support)
    assert vectors.shape == (3, algorithm.size)
    torch.testing.assert_close(algorithm.task_vectors(Examples(support.x[:, order], support.y[:, order], support.ways)), vectors)
    assert (vectors[0] - vectors[1]).abs().max() > 1e-6


def test_meta_features_by_hand():
    x, y = torch.tensor([[[-1.0], [1.0], [3.0]]]), torch.tensor([[[2.0], [4.0], [0.0]]])
    values = meta_features(Examples(x, y))
    plain = values.sign() * values.abs().expm1()
    assert values.shape == (1, count(LINE))
    spread = (8 / 3) ** 0.5
    expected = [1.0, spread, 2.0, spread, 0.0, 4.0, 0.0]  # inputs: mean, deviation; targets: those, least, greatest, skewness
    torch.testing.assert_close(plain[0, :7], torch.tensor(expected), atol=1e-4, rtol=1e-4)
    assert plain[0, -1].item() == pytest.approx((2 + 4) / 4, rel=1e-4)
    assert meta_features(images().support).shape == (3, count(PICTURES))


def test_the_nearest_training_task_lends_its_model():
    algorithm = learner(adapt="nearest", remembered=4)
    tasks = regression(tasks=3)
    untrained = algorithm.eval().trajectory(tasks.support, tasks.query.x)
    assert untrained.shape == (1, 3, 5, 1)
    algorithm.train().backward(regression(tasks=3))
    algorithm.train().backward(tasks)
    with torch.no_grad():
        expected = algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x)  # in training: its own steps
    algorithm.eval()
    found = algorithm.trajectory(tasks.support, tasks.query.x)[0]
    torch.testing.assert_close(found, expected)
    other = learner(adapt="nearest", remembered=4)
    other.load_state_dict(algorithm.state_dict())
    torch.testing.assert_close(other.eval().trajectory(tasks.support, tasks.query.x)[0], expected)
    assert algorithm.seen == 6
    assert algorithm.steps is None


def test_chunks_change_nothing():
    algorithm, tasks = learner(inner_steps=2), regression(tasks=5)
    losses, whole = gradients_of(algorithm, tasks)
    algorithm.task_chunk = 2
    in_parts, parts = gradients_of(algorithm, tasks)
    torch.testing.assert_close(in_parts, losses)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient)


@pytest.mark.parametrize("keys", [{}, {"outer": "reptile"}, {"recompute": True}, {"batch_norm": "running"}])
@pytest.mark.parametrize("kind", KINDS)
def test_the_metric_loss_compares_all_tasks_of_an_update_whatever_the_chunk(kind, keys):
    spec, factory, episodes = KINDS[kind]
    whole, tasks = learner(spec, factory, encoder="similarity", inner_steps=2, **keys), episodes(tasks=5)
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    whole.task_chunk = 5
    losses, expected = gradients_of(whole, tasks)
    assert expected["to_vector.weight"].abs().max() > 1e-6
    for chunk in (1, 2, 3):
        in_parts = learner(spec, factory, encoder="similarity", inner_steps=2, task_chunk=chunk, **keys)
        in_parts.load_state_dict(before)
        parts, found = gradients_of(in_parts, tasks)
        torch.testing.assert_close(parts, losses)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(in_parts.state_dict(), whole.state_dict(), rtol=1e-9, atol=1e-12)


def test_one_task_has_nothing_to_compare_with():
    with pytest.raises(
        ConfigError, match=r"^algo\.encoder=similarity: compares the tasks of an update, found one; set trainer\.tasks"
    ):
        learner(encoder="similarity").backward(regression(tasks=1))


def test_mistakes():
    with pytest.raises(RangeError, match="adapt=nearest: expected steps"):
        TaskEmbed(PICTURES, conv, RATE, adapt="nearest")
    with pytest.raises(ConfigError, match="film needs hidden layers"):
        TaskEmbed(LINE, lambda outputs: as_network(nn.Sequential(nn.Linear(1, outputs or 3))), RATE)

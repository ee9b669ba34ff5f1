"""What all networks of `algo=metalearner` must hold to, and the set encoders against plain loops."""

from functools import partial

import pytest
import torch
from reference import assert_gradients, copies, part, plain_conv4, plain_loss, plain_mlp
from small import LINE, PICTURES, conv, images, mlp, regression
from torch.nn import functional as F

from metarun.algo.metalearner import SetEncoder, meta_learner
from metarun.algo.readers.cnp import CNP
from metarun.algo.readers.hypernet import HyperNet
from metarun.algo.readers.lstm import LSTM
from metarun.algo.readers.mann import MANN
from metarun.algo.readers.snail import SNAIL
from metarun.config import ConfigError, RangeError
from metarun.data.classes import Classes
from metarun.data.images import ImageTasks
from metarun.data.source import TaskShape
from metarun.episodes import Examples

READERS = {
    "lstm": partial(LSTM, hidden=6),
    "mann": partial(MANN, slots=9, width=4, heads=2, hidden=6),
    "snail": partial(SNAIL, attention=((4, 3), (5, 2)), filters=3, levels=2),
    "cnp": partial(CNP, width=6),
    "hypernet": partial(HyperNet, width=6, generated=("*head*", "layers*")),
}
KINDS = {"mlp": (LINE, mlp, regression), "conv": (PICTURES, conv, images)}


def perceptron(weights, x):
    """Three or fewer linear layers with ReLU between them, as `nn.Sequential` numbers them."""
    last = max(int(name.partition(".")[0]) for name in weights)
    for i in range(0, last + 1, 2):
        x = x @ weights[f"{i}.weight"].T + weights[f"{i}.bias"]
        x = torch.relu(x) if i < last else x
    return x


def features(weights, x):
    return torch.relu(plain_mlp(weights, x)) if x.dim() == 2 else plain_conv4(weights, x)[0]


def encoded(weights, features, y):
    """The support set of one task as a vector: the mean over all examples, or the means of the classes."""
    if y.is_floating_point():
        return perceptron(weights, torch.cat([features, y], 1)).mean(0)
    return torch.cat([perceptron(weights, features[y == c]).mean(0) for c in range(3)])


@pytest.mark.parametrize("kind", KINDS)
def test_cnp_equals_a_plain_loop(kind):
    spec, factory, episodes = KINDS[kind]
    algorithm, tasks = CNP(spec, factory, width=6, min_std=0.2).double(), episodes()
    weights = copies(algorithm)
    shots, total = tasks.support.x.shape[1], torch.zeros((), dtype=torch.float64)
    for t in range(3):
        both = features(part(weights, "network."), torch.cat([tasks.support.x[t], tasks.query.x[t]]))
        code = encoded(part(weights, "encoder.each."), both[:shots], tasks.support.y[t])
        for query, y in zip(both[shots:], tasks.query.y[t], strict=True):
            out = perceptron(part(weights, "decoder."), torch.cat([query, code]))
            if kind == "conv":
                loss = plain_loss(out, y)
            else:
                std = 0.2 + 0.8 * F.softplus(out[1])
                loss = 0.5 * (std.square().log() + (y[0] - out[0]) ** 2 / std**2)  # up to a constant
            total = total + loss / (3 * tasks.query.y.shape[1])
    assert_gradients(algorithm, tasks, total, weights)


@pytest.mark.parametrize("kind", KINDS)
def test_hypernet_equals_a_plain_loop(kind):
    spec, factory, episodes = KINDS[kind]
    generated = ("head.*",) if kind == "conv" else ("*",)
    algorithm, tasks = HyperNet(spec, factory, width=6, generated=generated).double(), episodes()
    weights = copies(algorithm)
    total = torch.zeros((), dtype=torch.float64)
    for t in range(3):
        embedded = features(part(weights, "network."), tasks.support.x[t])
        made = weights["generator.weight"] @ encoded(part(weights, "encoder.each."), embedded, tasks.support.y[t])
        made, own = made + weights["generator.bias"], dict(part(weights, "of_task."))
        for name in own:
            if kind == "mlp" or name.startswith("head."):
                own[name], made = own[name] + made[: own[name].numel()].view_as(own[name]), made[own[name].numel() :]
        assert not len(made)
        out = plain_mlp(own, tasks.query.x[t]) if kind == "mlp" else plain_conv4(own, tasks.query.x[t])[0]
        total = total + plain_loss(out, tasks.query.y[t]) / 3
    assert_gradients(algorithm, tasks, total, weights)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("batch_norm", ["running", "support"])
def test_a_query_sees_no_other_and_no_other_task(name, kind, batch_norm):
    spec, factory, episodes = KINDS[kind]
    algorithm = READERS[name](spec, factory, batch_norm=batch_norm).double()
    algorithm.backward(episodes())  # running statistics
    algorithm.eval()
    before = {key: value.clone() for key, value in algorithm.state_dict().items()}
    tasks = episodes()
    with torch.no_grad():
        together = algorithm.predict(algorithm.adapt(tasks.support), tasks.query.x)
        alone = algorithm.predict(algorithm.adapt(tasks.support.tasks(slice(1, 2))), tasks.query.x[1:2, 2:3])
    torch.testing.assert_close(together[1:2, 2:3], alone)
    assert together.shape == (3, tasks.query.x.shape[1], spec.outputs)
    for key, value in algorithm.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_support_set_changes_nothing(name, kind):
    spec, factory, episodes = KINDS[kind]
    algorithm = READERS[name](spec, factory).double().eval()
    support, query = (tasks := episodes()).support, tasks.query
    order = torch.randperm(support.x.shape[1])
    permuted = Examples(support.x[:, order], support.y[:, order], support.ways)
    torch.testing.assert_close(
        algorithm.predict(algorithm.adapt(permuted), query.x), algorithm.predict(algorithm.adapt(support), query.x)
    )


@pytest.mark.parametrize("name", READERS)
def test_chunks_of_tasks_change_nothing(name):
    keys = {"train_on": "stream"} if name in ("lstm", "mann") else {}  # one random order a task, drawn in turn
    algorithm, tasks = READERS[name](LINE, mlp, **keys).double(), regression(tasks=5)
    found = []
    for chunk in (None, 2):
        algorithm.task_chunk = chunk
        algorithm.zero_grad()
        torch.manual_seed(0)  # the same random orders
        losses = algorithm.backward(tasks)
        found.append([losses, *(w.grad.clone() for w in algorithm.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_support_and_queries_make_the_running_statistics():
    for name, reader in READERS.items():
        algorithm = reader(PICTURES, conv)
        algorithm.backward(images(dtype=torch.float32))
        assert algorithm.network.statistics.values()["0"][0].abs().max() > 0, name
    assert algorithm.of_task.statistics.values()["0"][0].abs().max() > 0  # the hypernetwork's second network


def test_a_set_encoder_ignores_the_order_and_tells_classes_apart():
    x, y = torch.randn(2, 6, 4), F.one_hot(torch.tensor([[0, 0, 1, 1, 2, 2]] * 2), 3).float()
    order = torch.randperm(6)
    for by_class in (False, True):
        encoder = SetEncoder(4, 3, 5, by_class=by_class)
        assert encoder(x, y).shape == (2, encoder.outputs) == (2, 15 if by_class else 5)
        torch.testing.assert_close(encoder(x[:, order], y[:, order]), encoder(x, y))
        assert (encoder(x, y[:, [2, 3, 0, 1, 4, 5]]) - encoder(x, y)).abs().max() > 1e-3


def test_mistakes_are_one_line():
    node = {"_target_": "metarun.algo.readers.cnp.CNP", "width": 0}
    with pytest.raises(ConfigError, match=r"algo.network=cpn: no such network; did you mean cnp\?"):
        meta_learner(LINE, mlp, "cpn", {"cnp": node})
    with pytest.raises(RangeError, match=r"algo.networks.cnp.width=0: expected 1 or more"):
        meta_learner(LINE, mlp, "cnp", {"cnp": node})
    with pytest.raises(ConfigError, match=r"algo.networks.cnp.wdth: no such key; did you mean width\?"):
        meta_learner(LINE, mlp, "cnp", {"cnp": {**node, "wdth": 3}})
    with pytest.raises(RangeError, match="slots=1"):
        MANN(LINE, mlp, slots=1, heads=2)
    with pytest.raises(RangeError, match="generated"):
        HyperNet(LINE, mlp, generated=("none*",))


def test_labels_are_drawn_anew_in_every_episode():
    """Else a network could learn a class's label by heart instead of reading it; the sampler sees to it."""
    tasks = ImageTasks(1, torch.zeros(8, 1, 2, 2, dtype=torch.uint8), Classes.of_sizes([2] * 4), TaskShape(3, 1, 1))
    classes = tasks.sample(torch.arange(3000)).context["classes"]
    for label in range(3):
        share = torch.bincount(classes[:, label], minlength=4) / 3000
        assert (share - 0.25).abs().max() < 0.03

"""The Fisher's diagonal against a loop over single examples, and what follows from its labels."""

from functools import partial

import pytest
import torch
from small import LINE, images, mlp, regression
from streams import CPU, learner, stream
from torch.nn import functional as F

from metarun.algo.algorithm import INACTIVE
from metarun.algo.maml import MAML
from metarun.algo.protonet import ProtoNet
from metarun.algo.supervised import Supervised
from metarun.cl.fisher import fisher, sensitivity
from metarun.config import ConfigError
from metarun.data.source import TaskSource
from metarun.episodes import TaskSpec
from metarun.kinds import CLASSIFICATION
from metarun.model.context import replacements
from metarun.model.conv4 import Conv4
from metarun.model.network import as_network


def convolutional(data, **keys):
    wide = torch.nn.Upsample(scale_factor=4)  # 4×4 pixels are too few for four halvings
    torch.manual_seed(3)
    shape = (1, 16, 16)

    class Wide(Conv4):
        def forward(self, weights, x, norm=None):
            return super().forward(weights, wide(x.flatten(0, 1)).view(*x.shape[:2], *shape), norm)

    made = Supervised(data.spec, lambda outputs, given=None: Wide(shape, outputs, filters=3, **keys))
    for i in range(4):  # statistics as if it had been trained
        made.network.statistics.get_buffer(f"mean_{i}").uniform_(-0.1, 0.1)
        made.network.statistics.get_buffer(f"var_{i}").uniform_(0.5, 1.5)
    return made


def vectorised(data):
    torch.manual_seed(3)
    body = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 5), torch.nn.Tanh(), torch.nn.Linear(5, data.spec.outputs))
    return Supervised(data.spec, lambda outputs, given=None: as_network(body))


LEARNERS = {
    "mlp": learner,
    "conv4": convolutional,
    "strided": lambda data: convolutional(data, halve="stride", scale=False),
    "any module": vectorised,
}


def loop(algorithm, source, score):
    """Mean over examples, one by one, of what ``score(logits, label)`` says to square: (loss, weight) pairs."""
    algorithm.eval()
    names = [name for name, _ in algorithm.named_parameters()]
    total = {name: torch.zeros_like(w) for name, w in algorithm.named_parameters()}
    episodes = source.in_order().sample(torch.arange(source.count))
    for one in episodes.split(1):
        logits = algorithm.predict(None, one.query.x)[0, 0]
        active = one.context["active"][0] if "active" in one.context else torch.ones_like(logits, dtype=torch.bool)
        logits = logits.where(active, torch.tensor(INACTIVE))
        for loss, weight in score(logits, one.query.y[0, 0]):
            gradients = torch.autograd.grad(loss, list(algorithm.parameters()), retain_graph=True)
            for name, gradient in zip(names, gradients, strict=True):
                total[name] += weight * gradient**2
    return {name: value / source.count for name, value in total.items()}


def exact(logits, label):
    p = logits.detach().softmax(0)
    return [(-F.log_softmax(logits, 0)[c], p[c]) for c in range(len(p))]


SCORES = {
    "exact": exact,
    "true": lambda logits, label: [(-F.log_softmax(logits, 0)[label], 1.0)],
    "argmax": lambda logits, label: [(-F.log_softmax(logits, 0)[logits.argmax()], 1.0)],
}


@pytest.mark.parametrize("labels", SCORES)
@pytest.mark.parametrize("kind", LEARNERS)
def test_it_is_that_of_a_loop_over_examples(kind, labels):
    data = stream("task")
    algorithm, source = LEARNERS[kind](data), data.stages(CPU)[1].train
    found, expected = fisher(algorithm, source, labels), loop(algorithm, source, SCORES[labels])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-5 * float(value.max()), msg=name)


def test_sampled_labels_estimate_the_exact_one():
    data = stream("class")
    algorithm = learner(data)
    for w in algorithm.parameters():  # away from the start, where all labels are alike
        w.data.mul_(3)
    source = data.stages(CPU)[0].train
    exact = fisher(algorithm, source, "exact")
    many = [fisher(algorithm, source, "sampled") for _ in range(40)]
    trace = sum(float(f.sum()) for f in exact.values())
    assert sum(float(f.sum()) for found in many for f in found.values()) / 40 == pytest.approx(trace, rel=0.1)
    mean = torch.cat([torch.stack([found[name] for found in many]).mean(0).flatten() for name in exact])
    whole = torch.cat([f.flatten() for f in exact.values()])
    assert torch.corrcoef(torch.stack([mean, whole]))[0, 1] > 0.98


def test_outputs_that_are_not_active_get_none():
    data = stream("task")
    algorithm = learner(data)
    for labels in ("exact", "sampled"):
        found = fisher(algorithm, data.stages(CPU)[1].train, labels)["network.layers.2.bias"]
        assert (found[2:4] > 0).all()
        assert float(found[[0, 1, 4, 5]].abs().sum()) == 0


def test_a_part_of_the_examples_is_enough():
    data = stream("class")
    algorithm, source = learner(data), data.stages(CPU)[0].train
    few, all_of_them = fisher(algorithm, source, "exact", samples=20), fisher(algorithm, source, "exact")
    assert not torch.equal(few["network.layers.0.weight"], all_of_them["network.layers.0.weight"])
    assert float(few["network.layers.2.bias"].sum()) == pytest.approx(float(all_of_them["network.layers.2.bias"].sum()), rel=0.2)


def test_the_learner_is_left_as_it_was():
    data = stream("class")
    algorithm = learner(data).train()
    fisher(algorithm, data.stages(CPU)[0].train, "exact")
    assert algorithm.training
    assert all(w.grad is None and w.requires_grad for w in algorithm.parameters())
    assert not replacements(algorithm.network)


def test_sensitivity_is_that_of_a_loop():
    data = stream("task")
    algorithm, source = learner(data), data.stages(CPU)[0].train
    found = sensitivity(algorithm, source)
    total = torch.zeros_like(found["network.layers.1.weight"])
    episodes = source.in_order().sample(torch.arange(source.count))
    for one in episodes.split(1):
        size = algorithm.predict(None, one.query.x)[0, 0, :2].square().sum()
        total += torch.autograd.grad(size, algorithm.network.layers[1].weight)[0].abs()
    torch.testing.assert_close(found["network.layers.1.weight"], total / source.count, rtol=1e-5, atol=1e-7)


class Pictures(TaskSource):
    """Few-shot tasks."""

    def sample(self, ids):
        torch.manual_seed(int(ids[0]))
        return images(len(ids), dtype=torch.float32)


def test_learners_of_tasks_have_one_too():
    """Of a metric learner every episode's own gradient, support and queries together; of others the sampled estimate."""
    spec = TaskSpec(CLASSIFICATION, (1, 16, 16), 3, 3, "pictures")

    def network(outputs, shape=None):
        return Conv4((1, 16, 16), outputs, filters=3)

    torch.manual_seed(0)
    protonet = ProtoNet(spec, network, batch_norm="running")
    found = fisher(protonet, Pictures(), "true", samples=6)
    protonet.eval()
    episodes = Pictures().sample(torch.arange(6))
    total = torch.zeros_like(found["network.convs.2.weight"])
    for one in episodes.split(1):
        loss = F.cross_entropy(protonet.predict(protonet.adapt(one.support), one.query.x)[0], one.query.y[0], reduction="sum")
        total += torch.autograd.grad(loss, protonet.network.convs[2].weight)[0] ** 2
    torch.testing.assert_close(found["network.convs.2.weight"], total / 6, rtol=1e-4, atol=1e-5 * float(total.max()))
    maml = MAML(spec, network, 0.1)
    assert all(float(f.sum()) > 0 for f in fisher(maml, Pictures(), "sampled", samples=4).values())
    with pytest.raises(ConfigError, match="choose sampled"):
        fisher(protonet, Pictures(), "exact", samples=2)


class Lines(TaskSource):
    """Three tasks of regression."""

    def __init__(self):
        torch.manual_seed(2)
        self.all = regression(dtype=torch.float32)

    def sample(self, ids):
        return self.all.pick(ids)


@pytest.mark.parametrize("first_order", [False, True])
def test_an_episodes_score_goes_through_its_adaptation(first_order):
    """By hand for each episode: an inner step, then the query score with respect to the slow weights, or at the adapted ones."""
    torch.manual_seed(0)
    maml = MAML(LINE, lambda outputs, shape=None: mlp(outputs), 0.1, first_order=first_order)
    found = fisher(maml, Lines(), "true", samples=3)
    slow = dict(maml.network.named_parameters())
    total = {name: torch.zeros_like(w) for name, w in slow.items()}
    for one in Lines().all.split(1):
        support = (maml.network(slow, one.support.x) - one.support.y).square().mean()
        slopes = torch.autograd.grad(support, list(slow.values()), create_graph=not first_order)
        fast = {name: w - 0.1 * g for (name, w), g in zip(slow.items(), slopes, strict=True)}
        score = 0.5 * (maml.network(fast, one.query.x) - one.query.y).square().sum()
        for value, g in zip(total.values(), torch.autograd.grad(score, list(slow.values())), strict=True):
            value += g**2 / 3
    for name, value in total.items():
        torch.testing.assert_close(found[f"network.{name}"], value, rtol=1e-4, atol=1e-6 * float(value.max()))


@pytest.mark.parametrize("measure", [fisher, partial(fisher, labels="true"), sensitivity])
def test_a_learner_that_recomputes_its_inner_steps_is_measured_as_one_that_does_not(measure):
    found = []
    for recompute in (False, True):
        torch.manual_seed(0)
        maml = MAML(LINE, lambda outputs, shape=None: mlp(outputs), 0.1, inner_steps=2, recompute=recompute)
        found.append(measure(maml, Lines(), samples=3))
    assert max(float(value.max()) for value in found[0].values()) > 0
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


def test_sampled_scores_of_regression_are_of_a_unit_normal():
    source = Lines()
    torch.manual_seed(0)
    maml = MAML(LINE, lambda outputs, shape=None: mlp(outputs), 0.1)
    mean = sum(fisher(maml, source, "sampled", samples=3)["network.layers.2.bias"] for _ in range(300)) / 300
    # Each of five queries' outputs moves one for one with the bias, but for what adaptation takes back.
    through = [
        torch.autograd.grad(maml.outputs(one)[0, i, 0], maml.network.layers[2].bias)[0] ** 2
        for one in source.all.split(1)
        for i in range(5)
    ]
    torch.testing.assert_close(mean, torch.stack(through).sum(0) / 3, rtol=0.15, atol=0)
    with pytest.raises(ConfigError, match="needs classification; choose sampled"):
        fisher(maml, source, "exact", samples=3)

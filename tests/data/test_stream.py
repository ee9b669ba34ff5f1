"""Streams of single examples: labels, masks and order in the three scenarios."""

import numpy as np
import pytest
import torch
from streams import CPU, learner, stream

from metarun.config import ConfigError
from metarun.data import cifar100
from metarun.data.cifar100 import CIFAR100
from metarun.data.mnist import MNIST
from metarun.data.stream import interleaved
from metarun.report.statistics import over_tasks
from metarun.trainer.evaluation import evaluate


@pytest.mark.parametrize(
    ("scenario", "outputs", "labels", "active"),
    [("task", 6, [2, 3], [0, 0, 1, 1, 0, 0]), ("domain", 2, [0, 1], None), ("class", 6, [2, 3], None)],
)
def test_scenarios(scenario, outputs, labels, active):
    data = stream(scenario)
    assert (data.spec.outputs, data.spec.examples) == (outputs, True)
    stage = data.stages(CPU)[1]
    assert (stage.train.count, stage.val.count, stage.test.count) == (40, 10, 20)
    episodes = stage.test.sample(torch.arange(20))
    assert episodes.support.x.shape == (20, 0, 1, 4, 4)
    assert episodes.query.x.shape == (20, 1, 1, 4, 4)
    assert episodes.query.y.flatten().tolist() == labels * 10
    if active is None:
        assert not episodes.context
    else:
        assert episodes.context["active"].long().tolist() == [active] * 20


def test_an_epoch_is_all_examples_once_in_an_order_of_its_own():
    source = stream("class").stages(CPU)[0].train
    images = source.sample(torch.arange(100)).query.x.flatten(1)
    epochs = [images[:40], images[40:80]]
    inorder = source.in_order().sample(torch.arange(40)).query.x.flatten(1)
    for epoch in epochs:
        assert len(epoch.unique(dim=0)) == 40
        assert torch.equal(epoch.unique(dim=0), inorder.unique(dim=0))
    assert not torch.equal(*epochs)
    across = source.sample(torch.arange(35, 45)).query.x.flatten(1)  # from one epoch into the next
    assert torch.equal(across, images[35:45])


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize("split", ["val", "test"])
def test_any_first_examples_of_a_test_have_the_classes_in_proportion(scenario, split):
    data = stream(scenario)
    for stage in data.stages(CPU):
        source = getattr(stage, split)
        first = source.sample(torch.arange(source.count)).query.y.flatten()
        for n in range(1, source.count + 1):
            counts = torch.bincount(first[:n] - first.min(), minlength=2)
            assert int((counts - n / 2).abs().max() * 2) <= 1


@pytest.mark.parametrize(
    ("sizes", "apart"),
    [([980, 1135, 1032, 892], 1.1), ([10] * 100, 1), ([900, 100], 1), ([500, 3, 1, 40, 40, 40], 2.1), ([7], 0.1)],
)
def test_an_interleaved_order_is_a_shuffled_one_with_every_class_spread_evenly(sizes, apart):
    sizes = torch.tensor(sizes)
    order = interleaved(5, sizes)
    assert torch.equal(order.sort().values, torch.arange(int(sizes.sum())))
    classes = torch.arange(len(sizes)).repeat_interleave(sizes)[order]
    counts = torch.nn.functional.one_hot(classes, len(sizes)).cumsum(0)
    proportion = torch.arange(1, len(order) + 1).unsqueeze(1) * sizes / sizes.sum()
    assert float((counts - proportion).abs().max()) < apart
    assert torch.equal(order, interleaved(5, sizes))
    if len(order) > 100:
        assert not torch.equal(order, interleaved(6, sizes))
        assert not torch.equal(order[classes == 0], order[classes == 0].sort().values)


def test_a_constant_answer_is_at_chance_on_few_test_examples():
    """Two classes share two outputs: numbered class by class, the first ten of 20 are all of one class."""
    data = stream("domain")
    algorithm = learner(data, [5])
    with torch.no_grad():
        for w in algorithm.parameters():
            w.zero_()
    assert [evaluate(algorithm, stage.test, 10).mean() for stage in data.stages(CPU)] == [0.5] * 3


def test_uniform_draws_come_back_sooner():
    source = stream("class", "uniform").stages(CPU)[0].train
    images = source.sample(torch.arange(40)).query.x.flatten(1)
    assert len(images.unique(dim=0)) < 40
    assert torch.equal(source.sample(torch.tensor([7])).query.x.flatten(1)[0], images[7])


def test_a_test_is_of_the_whole_set_whatever_the_number_asked_for():
    data = stream("task")
    algorithm = learner(data, [5])
    scores = evaluate(algorithm, data.stages(CPU)[0].test, 1000)
    assert scores.shape == (1, 20)


def test_stages_of_different_sizes_count_alike():
    a, b = torch.ones(10).numpy(), torch.zeros(1000).numpy()
    found = over_tasks(a, b)
    assert found["mean"] == 0.5
    assert found["n_tasks"] == 1010


def test_outputs_that_are_not_active_are_never_predicted():
    data = stream("task")
    algorithm = learner(data, [5]).eval()
    episodes = data.stages(CPU)[1].test.sample(torch.arange(20))
    assert set(algorithm.predictions(episodes)[0].argmax(-1).flatten().tolist()) <= {2, 3}
    algorithm.train().backward(episodes)
    head = algorithm.network.layers[1].weight.grad
    assert float(head[[0, 1, 4, 5]].abs().sum()) == 0
    assert float(head[2:4].abs().sum()) > 0


def test_the_real_digits(data_root, tmp_path, monkeypatch):
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path))
    data = MNIST(0, root=str(data_root), scenario="class", stages=5)
    assert [stage.test.count for stage in data.stages(CPU)] == [2115, 2042, 1874, 1986, 1983]
    assert sum(stage.train.count for stage in data.stages(CPU)) == 55000
    first = [stage.test.sample(torch.arange(200)).query.y.flatten().bincount(minlength=10) for stage in data.stages(CPU)]
    assert all(sorted(counts.tolist())[-2] >= 90 for counts in first)
    permuted = MNIST(0, root=str(data_root), scenario="domain", stages=3, stage_by="permutation")
    first, second = (stage.test.sample(torch.arange(5)).query for stage in permuted.stages(CPU)[:2])
    assert torch.equal(first.y, second.y)
    assert not torch.equal(first.x, second.x)
    assert torch.equal(first.x.flatten(1).sort().values, second.x.flatten(1).sort().values)
    assert (permuted.spec.outputs, data.spec.outputs) == (10, 10)


def test_photographs_by_groups_of_classes(monkeypatch):
    superclass = np.arange(100) % 20
    images = torch.zeros(60000, 3, 2, 2, dtype=torch.uint8)
    monkeypatch.setattr(cifar100, "load", lambda root: cifar100.Decoded(images, [str(c) for c in range(100)], superclass))
    data = CIFAR100(0, scenario="class", stages=10, stage_by="superclass")
    stages = data.stages(CPU)
    assert data.spec.outputs == 100
    assert [(s.train.count, s.val.count, s.test.count) for s in stages] == [(4500, 500, 1000)] * 10
    assert all(len({int(c) // 600 % 20 for c in group["train"].start}) == 2 for group in data.parts.values())
    with pytest.raises(ConfigError, match="stages=21: expected 1 to 20"):
        CIFAR100(0, stages=21, stage_by="superclass")
    assert len(CIFAR100(0, ways=5).stages(CPU)) == 1

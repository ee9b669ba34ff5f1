"""Relation networks against pairs that are joined one by one."""

from dataclasses import replace

import pytest
import torch
from reference import assert_gradients, batch_moments, copies, part, plain_conv4
from small import PICTURES, conv, images
from torch.nn import functional as F

from metarun.algo.anil import ANIL
from metarun.algo.finetune import Finetune
from metarun.algo.matchingnet import MatchingNet
from metarun.algo.protonet import ProtoNet
from metarun.algo.relationnet import RelationNet
from metarun.config import ConfigError, RangeError
from metarun.model.conv4 import Conv4


def maps(outputs):
    return Conv4((1, 16, 16), outputs, filters=4, halvings=2, features="maps")


def plain_maps(weights, x):
    for i in range(4):
        x = F.conv2d(x, weights[f"convs.{i}.weight"], padding=1)
        mean, var = batch_moments(x)
        x = (x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + 1e-5)
        x = torch.relu(x * weights[f"norms.{i}.weight"][:, None, None] + weights[f"norms.{i}.bias"][:, None, None])
        x = F.max_pool2d(x, 2) if i < 2 else x
    return x


def plain_relation(weights, pairs, convolutions):
    x = pairs
    for i in range(convolutions):
        x = F.conv2d(x, weights[f"convs.{i}.weight"], padding=1)
        mean, var = batch_moments(x)
        x = (x - mean[:, None, None]) / torch.sqrt(var[:, None, None] + 1e-5)
        x = torch.relu(x * weights[f"norms.{i}.weight"][:, None, None] + weights[f"norms.{i}.bias"][:, None, None])
        x = F.max_pool2d(x, 2)
    x = torch.relu(F.linear(x.flatten(1), weights["ends.0.weight"], weights["ends.0.bias"]))
    return torch.sigmoid(F.linear(x, weights["ends.1.weight"], weights["ends.1.bias"]))


@pytest.mark.parametrize(
    ("factory", "embed", "convolutions"),
    [(maps, plain_maps, 2), (conv, lambda w, x: plain_conv4(w, x)[0], 0)],
    ids=["maps", "vectors"],
)
def test_gradients(factory, embed, convolutions):
    algorithm = RelationNet(PICTURES, factory, filters=5, hidden=4).double()
    tasks = images(tasks=2)
    leaves = copies(algorithm)
    body, relation = part(leaves, "network."), part(leaves, "relation.")
    loss = torch.zeros((), dtype=torch.float64)
    for t in range(len(tasks)):
        support, queries = embed(body, tasks.support.x[t]), embed(body, tasks.query.x[t])
        classes = [support[tasks.support.y[t] == c].sum(0) for c in range(3)]
        pairs = torch.stack([torch.cat([of_class, query]) for query in queries for of_class in classes])
        scores = plain_relation(relation, pairs, convolutions).view(len(queries), 3)
        targets = (tasks.query.y[t][:, None] == torch.arange(3)).double()
        loss = loss + ((scores - targets) ** 2).mean() / len(tasks)
    assert_gradients(algorithm, tasks, loss, leaves)


def test_maps_that_are_too_small_are_refused():
    with pytest.raises(RangeError, match=r"model\.halvings=2"):
        RelationNet(PICTURES, lambda outputs: Conv4((1, 16, 16), outputs, filters=4, features="maps"))


@pytest.mark.parametrize("learner", [ANIL, Finetune, MatchingNet, ProtoNet])
def test_learners_on_vectors_refuse_maps(learner):
    keys = {} if learner in (MatchingNet, ProtoNet) else {"inner_lr": 0.1}
    with pytest.raises(ConfigError, match="model: the algorithm works on vectors"):
        learner(replace(PICTURES, train_classes=7), maps, **keys)

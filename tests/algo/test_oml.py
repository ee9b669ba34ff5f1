"""OML's inner loop against plain loops, and the test by the length of the stream."""

import pytest
import torch
from small import LINE, PICTURES, conv, images, mlp, regression
from torch.nn import functional as F

from metarun.algo.algorithm import eval_mode
from metarun.algo.by_length import lengths
from metarun.algo.finetune import Finetune
from metarun.algo.oml import OML
from metarun.data.sine_stream import SineStream
from metarun.episodes import Examples
from metarun.model.mlp import MLP


def made(kind, batch=1):
    torch.manual_seed(1)
    if kind == "sine":
        return OML(LINE, lambda outputs, shape=None: mlp(outputs), 0.1, batch).double(), regression()
    return OML(PICTURES, lambda outputs, shape=None: conv(outputs), 0.1, batch, "transductive").double(), images()


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", ["sine", "pictures"])
def test_it_is_a_loop_over_tasks_and_examples(kind, batch):
    """The predictor's steps, and the gradient of all slow weights through them, by autograd."""
    oml, episodes = made(kind, batch)
    losses = oml.backward(episodes)
    found = {name: w.grad.clone() for name, w in oml.named_parameters()}
    total = 0.0
    for one in episodes.split(1):
        features = oml.embed_support(one.support.x)[0][0]
        outputs = one.support.ways or 1
        weight, bias = oml.head.weight.expand(outputs, -1), oml.head.bias.expand(outputs)

        def loss(x, y, weight, bias):
            out = x @ weight.T + bias
            return F.mse_loss(out, y) if y.is_floating_point() else F.cross_entropy(out, y)

        for x, y in zip(features.split(batch), one.support.y[0].split(batch), strict=True):
            slopes = torch.autograd.grad(loss(x, y, weight, bias), (weight, bias), create_graph=True)
            weight, bias = weight - 0.1 * slopes[0], bias - 0.1 * slopes[1]
        total = total + loss(oml.embed_queries(one.query.x)[0], one.query.y[0], weight, bias)
    torch.testing.assert_close(losses.sum(), total.detach())
    for (name, w), expected in zip(
        oml.named_parameters(), torch.autograd.grad(total / len(episodes), list(oml.parameters())), strict=True
    ):
        torch.testing.assert_close(found[name], expected, msg=name)
        assert float(w.grad.abs().sum()) > 0


def test_the_score_by_length_is_that_of_shorter_streams():
    oml, episodes = made("pictures")
    with torch.no_grad(), eval_mode(oml):
        found = oml.probe(episodes)["by_length"]
        for place, n in enumerate(lengths(3)):
            # The classes to come have outputs from the start.
            support = Examples(episodes.support.x[:, : 2 * n], episodes.support.y[:, : 2 * n], 3)
            out = oml.predict(oml.adapt(support), episodes.query.x[:, : 2 * n])
            right = (out.argmax(-1) == episodes.query.y[:, : 2 * n]).double().mean(1)
            torch.testing.assert_close(found[:, place].double(), right)
    assert lengths(3) == [1, 2, 3]
    assert lengths(200)[-2:] == [150, 200]


def test_fine_tuning_takes_the_stream_once_and_in_order():
    torch.manual_seed(1)
    learner = Finetune(LINE, lambda outputs, shape=None: mlp(outputs), inner_lr=0.1, inner_batch=3).double()
    episodes = regression(shots=4)
    with torch.no_grad(), eval_mode(learner):
        states = list(learner.walk(episodes.support))
        out = learner.predictions(episodes)
    assert len(states) == 3  # of three examples, then of one
    assert learner.steps is None
    assert out.shape == (1, 3, 5, 1)
    weights = [learner.head.weight, learner.head.bias, *learner.network.parameters()]
    x, y = episodes.support.x[:1, :3], episodes.support.y[:1, :3]
    slope = torch.autograd.grad(F.mse_loss(learner.head(learner.network(learner.network.weights(), x)), y), weights)[0]
    torch.testing.assert_close(states[1].weights["head.weight"][0], learner.head.weight - 0.1 * slope)


def test_waves_follow_one_another():
    data = SineStream(0, functions=3, shots=4, queries=2)
    stage = data.stages(torch.device("cpu"))[0]
    tasks = stage.train.sample(torch.arange(5))
    assert tasks.support.x.shape == (5, 12, 4)
    assert tasks.query.y.shape == (5, 6, 1)
    assert tasks.support.x[:, :, 1:].argmax(-1)[0].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    alone = stage.train.sample(torch.tensor([3]))
    assert torch.equal(alone.support.x[0], tasks.support.x[3])
    assert torch.equal(alone.query.y[0], tasks.query.y[3])
    assert not torch.equal(tasks.query.y[3, :2], tasks.query.y[3, 2:4])
    oml = OML(data.spec, lambda outputs, shape=None: MLP((4,), outputs, [5]), 0.01)
    with torch.no_grad(), eval_mode(oml):
        assert oml.probe(tasks)["by_length"].shape == (5, 3)

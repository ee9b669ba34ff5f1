"""What every learner has from its base, on values worked by hand."""

import pytest
import torch
from runs import composed
from small import LINE, PICTURES, conv, images, mlp, regression

from metarun.algo.algorithm import (
    AT_ONCE,
    INACTIVE,
    Algorithm,
    eval_mode,
    recorded_steps,
    weighted,
)
from metarun.build import build
from metarun.config import ConfigError, RangeError
from metarun.episodes import Episodes, TaskSpec
from metarun.kinds import REGRESSION, Classification
from metarun.model.norm import Norm


class Mean(Algorithm):
    """Predicts the support set's mean target times a learned factor; how often it was asked is counted."""

    def __init__(self, spec=LINE, **keys):
        super().__init__(spec, **keys)
        self.network = mlp(1)
        self.factor = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))
        self.asked = []

    def adapt(self, support, steps=None):
        self.asked.append((len(support.x), steps))
        return support.y.mean(1, keepdim=True)

    def predict(self, state, x):
        return self.factor * state.expand(-1, x.shape[1], -1)


class Picture(Mean):
    def __init__(self, mode):
        Algorithm.__init__(self, PICTURES, batch_norm=mode)
        self.network, self.asked = conv(None), []


def tasks_with(*weights: float) -> Episodes:
    made = regression(tasks=len(weights))
    return Episodes(made.support, made.query, {"weight": torch.tensor(weights, dtype=torch.float64)})


def test_what_it_is_given_is_kept():
    algorithm = Mean(batch_norm="support", task_chunk=3)
    assert (algorithm.spec, algorithm.batch_norm, algorithm.task_chunk) == (LINE, "support", 3)
    assert (Mean().batch_norm, Mean().task_chunk) == ("transductive", None)
    assert (Mean().probe(regression()), Mean().passes(regression()), Mean().why_not_sharded) == ({}, 1.0, None)


def test_mistakes_are_named():
    with pytest.raises(RangeError) as caught:
        Mean(task_chunk=0)
    assert str(caught.value) == "task_chunk=0: expected 1 or more, or null"
    assert Mean(task_chunk=1).task_chunk == 1

    class Classes(Mean):
        kinds = (Classification,)

    with pytest.raises(ConfigError) as other:
        Classes()
    assert str(other.value) == "Classes learns classification alone, but data=line is regression; choose another algo or data"
    single = TaskSpec(REGRESSION, (1,), outputs=1, train_outputs=1, name="singles", examples=True)
    with pytest.raises(ConfigError) as other:
        Mean(single)
    assert str(other.value) == (
        "Mean learns from support sets, but data=singles with a scenario gives single examples;"
        " choose algo=supervised, or data.scenario=null"
    )

    class Whole(Mean):
        adapts = False

    assert Whole(single).spec == single


@pytest.mark.parametrize("chunk", [None, 1, 2, 5])
def test_the_gradient_is_that_of_the_weighted_mean_loss(chunk):
    """d/df of w (f m − y)² for a prediction f m: 2 w m (f m − y), the mean over queries and tasks, whatever the chunks."""
    tasks = tasks_with(1.0, 0.5, 3.0)
    algorithm = Mean(task_chunk=chunk)
    losses = algorithm.backward(tasks)
    total, expected = 0.0, []
    for t, weight in enumerate((1.0, 0.5, 3.0)):
        mean = float(tasks.support.y[t].mean())
        y = tasks.query.y[t, :, 0].tolist()
        expected.append(sum((2 * mean - value) ** 2 for value in y) / len(y))
        total += weight * sum(2 * mean * (2 * mean - value) for value in y) / len(y) / 3
    assert losses.tolist() == pytest.approx(expected)  # as they are, without the weights
    assert not losses.requires_grad
    assert float(algorithm.factor.grad) == pytest.approx(total)
    assert [tasks for tasks, _ in algorithm.asked] == {None: [3], 1: [1, 1, 1], 2: [2, 1], 5: [3]}[chunk]


@pytest.mark.parametrize("chunk", [None, 2])
def test_gradients_that_are_given_are_averaged_and_the_others_are_those_of_the_loss(chunk):
    class Pulled(Mean):
        """Each weight of the network is pulled to 0, task t with force t; the factor descends the loss."""

        def gradients(self, episodes):
            force = episodes.context["force"]
            return self.losses(episodes), {name: force.view(-1, *[1] * w.dim()) * w for name, w in self.network.weights().items()}

    tasks = tasks_with(1.0, 0.0, 4.0)
    tasks.context["force"] = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    algorithm, plain = Pulled(task_chunk=chunk).double(), Mean()
    for _ in range(2):  # gradients add up, as those of torch do
        losses = algorithm.backward(tasks)
    plain.backward(tasks)
    torch.testing.assert_close(losses, plain.losses(tasks).detach())
    torch.testing.assert_close(algorithm.factor.grad, 2 * plain.factor.grad)
    for w in algorithm.network.parameters():
        torch.testing.assert_close(w.grad, 2 * (1 * 1 + 4 * 3) / 3 * w.detach())


@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_what_is_drawn_once_is_drawn_alike_in_each_chunk(chunk):
    class Drawing(Mean):
        draws_once = True

        def losses(self, episodes):
            return torch.rand(()) * self.factor * torch.ones(len(episodes), dtype=torch.float64)

    torch.manual_seed(3)
    expected, after = 2 * torch.rand(()), torch.rand(())
    algorithm, tasks = Drawing(task_chunk=chunk), regression(tasks=3)
    torch.manual_seed(3)
    losses = algorithm.backward(tasks)
    torch.testing.assert_close(losses, expected.double().expand(3))
    assert torch.equal(torch.rand(()), after)  # an update draws as much, whatever its chunks


def test_predictions_with_and_without_their_path():
    tasks, algorithm = regression(), Mean()
    outputs = algorithm.outputs(tasks)
    for path in (True, False):
        found = algorithm.predictions(tasks, 7, path=path)
        assert found.shape == (1, *outputs.shape)
        assert torch.equal(found[0], outputs)
    assert [steps for _, steps in algorithm.asked] == [None, None, 7]
    assert torch.equal(algorithm.outputs_and_targets(tasks)[0], outputs)
    assert algorithm.outputs_and_targets(tasks)[1] is tasks.query.y
    torch.testing.assert_close(algorithm.losses(tasks), (outputs - tasks.query.y).square().mean((1, 2)))


def test_the_path_of_a_test_goes_by_the_steps_asked_for():
    class Path(Mean):
        def trajectory(self, support, x, steps=None):
            return torch.stack([torch.full((len(x), x.shape[1], 1), float(step)) for step in range(steps + 1)])

    tasks, algorithm = regression(), Path()
    assert algorithm.predictions(tasks, 4)[:, 0, 0, 0].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert algorithm.predictions(tasks, 4, path=False).shape[0] == 1


def test_an_update_takes_as_many_tasks_at_once_as_suit_the_network(monkeypatch):
    tasks, algorithm = regression(tasks=3, shots=4, queries=5), Mean()
    algorithm.network.widest = 2
    monkeypatch.setattr("metarun.algo.algorithm.AT_ONCE", 2 * 9 * 2)  # two tasks of nine examples
    algorithm.backward(tasks)
    assert [size for size, _ in algorithm.asked] == [2, 1]


def test_outputs_that_are_not_active_are_masked_wherever_they_are_made():
    class Flat(Mean):
        def predict(self, state, x):
            return torch.ones(x.shape[0], x.shape[1], 3)

    active = torch.tensor([[True, False, True], [False, True, True]])
    made = regression(tasks=2)
    tasks = Episodes(made.support, made.query, {"active": active})
    algorithm = Flat()
    for found in (algorithm.outputs(tasks), algorithm.predictions(tasks)[0], algorithm.predictions(tasks, path=False)[0]):
        assert torch.equal(found == 1.0, active.unsqueeze(1).expand_as(found))
        assert found.unique().tolist() == [INACTIVE, 1.0]


def test_recorded_steps():
    assert recorded_steps(0) == [0]
    assert recorded_steps(3) == [0, 1, 2, 3]
    assert recorded_steps(10) == list(range(11))
    assert recorded_steps(11) == [0, 1, 2, 5, 10, 11]
    assert recorded_steps(20) == [0, 1, 2, 5, 10, 20]
    assert recorded_steps(120) == [0, 1, 2, 5, 10, 20, 50, 100, 120]
    assert Mean().eval_steps(120) == recorded_steps(120)


def test_weights_multiply_whatever_follows_the_task_axis():
    tasks = tasks_with(1.0, 0.0, 3.0)
    assert weighted(torch.ones(3), tasks).tolist() == [1.0, 0.0, 3.0]
    assert weighted(torch.ones(3, 2, 2), tasks)[:, 1, 1].tolist() == [1.0, 0.0, 3.0]
    plain = torch.ones(3)
    assert weighted(plain, regression()) is plain


def test_the_mode_is_put_back():
    for mode in (True, False):
        algorithm = Mean().train(mode)
        with pytest.raises(ZeroDivisionError):
            divided_in_eval_mode(algorithm)
        assert algorithm.training is mode


def divided_in_eval_mode(algorithm):
    with eval_mode(algorithm):
        assert not algorithm.training
        raise ZeroDivisionError


def test_tasks_at_once_follow_from_the_widest_layer():
    algorithm, tasks = Mean(), regression(shots=4, queries=5)
    algorithm.network.widest = 7
    assert algorithm.chunk(tasks) == AT_ONCE // (7 * 9)
    algorithm.network.widest = AT_ONCE
    assert algorithm.chunk(tasks) == 1
    algorithm.network.widest = None
    assert algorithm.chunk(tasks) is None
    empty = regression(shots=0, queries=0)
    algorithm.network.widest = 2
    assert algorithm.chunk(empty) == AT_ONCE // 2
    assert Mean(task_chunk=3).chunk(tasks) == 3


# Batch norms ---------------------------------------------------------------------------------------------------------------------


def statistics(algorithm) -> list[float]:
    return [float(value.sum()) for value in algorithm.network.statistics.buffers()]


@pytest.mark.parametrize(("embed", "moves"), [("embed_support", False), ("embed_queries", True), ("embed_pooled", True)])
def test_running_statistics_move_by_what_training_passes_over_queries_saw(embed, moves):
    algorithm, x = Picture("running"), images(dtype=torch.float32).query.x
    before = statistics(algorithm)
    for training in (False, True):
        algorithm.train(training)
        getattr(algorithm, embed)(x)
        algorithm.write_statistics()
        assert (statistics(algorithm) != before) == (moves and training)
    after = statistics(algorithm)
    algorithm.write_statistics()
    assert statistics(algorithm) == after  # once


@pytest.mark.parametrize("embed", ["embed_support", "embed_queries", "embed_pooled"])
def test_a_test_under_running_uses_the_running_statistics(embed):
    """A task's embedding does not depend on what else is in its batch, and moves with the statistics."""
    algorithm, x = Picture("running").eval(), images(dtype=torch.float32).query.x

    def embedded(of):
        found = getattr(algorithm, embed)(of)
        return found[0] if isinstance(found, tuple) else found

    torch.testing.assert_close(embedded(x)[:, :2], embedded(x[:, :2]))
    before = embedded(x)
    algorithm.network.statistics.get_buffer("mean_3").add_(0.1)
    assert not torch.allclose(embedded(x), before)
    with torch.no_grad():
        algorithm.train()
        assert not torch.allclose(embedded(x)[:, :2], embedded(x[:, :2]))


def test_statistics_of_the_support_set_are_handed_on():
    algorithm, x = Picture("support"), images(dtype=torch.float32).support.x
    _, seen = algorithm.embed_support(x)
    assert set(seen) == {"0", "1", "2", "3"}
    assert seen["0"][0].requires_grad
    torch.testing.assert_close(algorithm.embed_queries(x, seen), algorithm.embed_support(x)[0])
    for mode in ("transductive", "running"):
        assert Picture(mode).embed_support(x)[1] is None
    queries = 0.5 * images(dtype=torch.float32).query.x
    found = algorithm.embed_queries(queries, seen)
    torch.testing.assert_close(found[:, :1], algorithm.embed_queries(queries[:, :1], seen))  # whatever else is in its batch


def test_statistics_of_ones_own_are_kept_apart():
    algorithm = Picture("running")
    other = type(algorithm.network.statistics)({"0": 4})
    assert algorithm.norm(query=True, statistics=other).given is None
    algorithm.observe(Norm(seen={"0": (torch.ones(1, 4), torch.ones(1, 4))}), other)
    algorithm.observe(Norm(seen={"0": (3 * torch.ones(1, 4), torch.ones(1, 4))}), other)
    algorithm.observe(Norm(), other)  # saw nothing
    before = statistics(algorithm)
    algorithm.write_statistics()
    assert other.get_buffer("mean_0").tolist() == pytest.approx([0.2] * 4)  # a tenth of the way to the mean, 2
    assert statistics(algorithm) == before
    algorithm.eval()
    assert algorithm.norm(query=True, statistics=other).given["0"][0] is other.get_buffer("mean_0")
    algorithm.observe(Norm(seen={"0": (torch.ones(1, 4), torch.ones(1, 4))}), other)
    algorithm.write_statistics()
    assert other.get_buffer("mean_0").tolist() == pytest.approx([0.2] * 4)


@pytest.mark.parametrize(
    ("query", "record", "kept"), [(True, None, "values"), (False, None, None), (False, True, "values"), (True, False, None)]
)
def test_what_a_training_pass_records(query, record, kept):
    assert Picture("running").norm(query=query, record=record) == Norm(record=kept)
    assert Picture("transductive").norm(query=query, record=record) == Norm()


class Careless(Picture):
    """A learner that has no statistics of its support sets for its queries."""

    def predict(self, state, x):
        return self.network(self.network.weights(), x, self.norm(query=True))

    def adapt(self, support, steps=None):
        return None


def test_queries_without_the_statistics_of_their_support_set_are_refused():
    tasks = images(dtype=torch.float32)
    for mode in ("transductive", "running"):
        assert Careless(mode).predictions(tasks, path=False).shape[:2] == (1, 3)
    with pytest.raises(ConfigError) as caught:
        Careless("support").predictions(tasks)
    assert str(caught.value) == (
        "algo.batch_norm=support: Careless normalises queries without the statistics of their support set;"
        " choose transductive or running, or write it with embed_support and embed_queries"
    )
    assert Careless("support").norm(query=False, record=True) == Norm()
    assert Careless("support").embed_pooled(tasks.query.x).shape[:2] == (3, 6)


MODELS = {
    "line": (LINE, lambda outputs, shape=None: mlp(outputs)),
    "pictures": (PICTURES, lambda outputs, shape=None: conv(outputs)),
}
OWN_HEAD = {"head.weight", "head.bias"}
PARTS = {
    "line maml": {"network.layers.2.weight", "network.layers.2.bias"},
    "pictures maml": {"network.head.weight", "network.head.bias"},
    "pictures mamlpp": {"network.head.weight", "network.head.bias"},
    "line taskembed": {"network.layers.2.weight", "network.layers.2.bias"},
    "pictures anil": OWN_HEAD,
    "line oml": OWN_HEAD,
    "line finetune": OWN_HEAD,
    "pictures oml": set(),
    "pictures protonet": set(),
    "pictures relationnet": set(),
    "pictures metalearner algo.network=cnp": {"decoder.4.weight", "decoder.4.bias"},
    "line metalearner algo.network=cnp": set(),
    "line metalearner algo.network=lstm": {"head.2.weight", "head.2.bias"},
    "line metalearner algo.network=snail": OWN_HEAD,
    "line metalearner algo.network=mann": OWN_HEAD,
    "pictures metalearner algo.network=hypernet": {"of_task.head.weight", "of_task.head.bias"},
}


@pytest.mark.parametrize("case", PARTS)
def test_a_learner_names_its_head_and_the_rest_of_the_network_is_the_body(case):
    tasks, name, *keys = case.split()
    node = composed(f"algo={name}", *keys).algo
    algorithm = build(node, *MODELS[tasks], key="algo", kind=Algorithm)
    assert algorithm.parts["head"] == PARTS[case]
    assert algorithm.parts["body"] == {n for n, _ in algorithm.named_parameters() if n.startswith("network.")} - PARTS[case]


def test_a_pass_puts_all_examples_through_the_network_once():
    class Counting(Picture):
        def __init__(self):
            super().__init__("transductive")
            self.network.register_forward_pre_hook(lambda module, args: self.seen.append(tuple(args[1].shape)))
            self.seen = []

    algorithm, tasks = Counting(), images(dtype=torch.float32)
    algorithm.network_pass(tasks)
    assert algorithm.seen == [tuple(tasks.support.x.shape), tuple(tasks.query.x.shape)]

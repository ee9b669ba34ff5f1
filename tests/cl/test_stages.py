"""Methods that change the learner by stage, or where its tasks come from."""

import numpy as np
import pytest
import torch
from runs import composed
from small import LINE, PICTURES, conv, mlp
from streams import CPU, learner, method, stopped_and_resumed, stream, train

from metarun.algo.maml import MAML
from metarun.algo.protonet import ProtoNet
from metarun.cl.heads import Heads
from metarun.cl.joint import Mixture
from metarun.cl.metrics import stream_metrics
from metarun.config import ConfigError
from metarun.data.mnist import MNIST
from metarun.data.sine import Sine
from metarun.parts import build_method


def test_progressive_networks_forget_nothing(tmp_path, monkeypatch):
    """Killed in the third stage and resumed."""
    outcome, algorithm = stopped_and_resumed(tmp_path, stream("task"), "progressive", (), 15, monkeypatch)
    assert outcome.position.resumed_at == [16]
    R = np.array(outcome.rows)
    assert stream_metrics(R, higher_is_better=True)["forgetting"] == 0.0
    assert all(R[i, j] == R[j + 1, j] for j in range(3) for i in range(j + 1, 4))
    assert len(algorithm.network.columns) == 3
    trained = {name for name, w in algorithm.named_parameters() if w.requires_grad}
    assert trained == {
        name for name, _ in algorithm.named_parameters() if name.startswith(("network.columns.2.", "network.lateral.2."))
    }


def test_a_new_column_starts_as_if_it_were_alone():
    data = stream("task")
    algorithm, progressive = learner(data), method("progressive")
    x = data.stages(CPU)[0].train.sample(torch.arange(4)).query.x
    alone = algorithm.predict(None, x)
    progressive.on_start(algorithm, data.stages(CPU))
    with torch.no_grad():
        for w in algorithm.parameters():
            w += 0.1
    progressive.grow(algorithm, 1)
    torch.testing.assert_close(algorithm.predict(None, x), alone)
    algorithm.predict(None, x).square().sum().backward()
    links = algorithm.network.lateral[1]
    assert [tuple(w.shape) for w in links] == [(8, 12), (6, 8)]
    assert all(w.grad is not None and float(w.grad.abs().sum()) > 0 for w in links)
    assert all(w.grad is None for w in algorithm.network.columns[0].parameters())
    with torch.no_grad():
        links[0].add_(1.0)
    assert not torch.allclose(algorithm.predict(None, x), alone)
    with progressive.testing(algorithm, 0):
        assert algorithm.network.active == 0
    assert algorithm.network.active == 1


def test_what_cannot_be_columns_is_refused():
    with pytest.raises(ConfigError, match="cl=progressive: needs model=mlp"):
        method("progressive").on_start(MAML(PICTURES, lambda outputs, shape=None: conv(outputs), 0.1), [])


def test_each_stage_has_its_head(tmp_path):
    data = stream("domain")
    heads = method("heads")
    _, algorithm = train(tmp_path, data, heads, iterations=20)
    names = {f"network.layers.2.{name}" for name in ("weight", "bias")}
    assert all(set(head) == names for head in heads.heads)
    own = algorithm.get_parameter("network.layers.2.weight").detach().clone()
    assert torch.equal(own, heads.heads[2]["network.layers.2.weight"])
    with heads.testing(algorithm, 0):
        assert torch.equal(algorithm.get_parameter("network.layers.2.weight"), heads.heads[0]["network.layers.2.weight"])
    assert torch.equal(algorithm.get_parameter("network.layers.2.weight"), own)
    method("heads").on_start(MAML(LINE, lambda outputs, shape=None: mlp(outputs), 0.1), [])
    with pytest.raises(ConfigError, match="no head"):
        method("heads").on_start(ProtoNet(PICTURES, lambda outputs, shape=None: conv(outputs)), [])


def drawn(seed):
    data, heads = stream("domain"), method("heads")
    algorithm, heads.seed = learner(data, (40, 30)), seed
    heads.on_start(algorithm, data.stages(CPU))
    return algorithm, heads


def test_every_head_is_drawn_anew_by_the_law_of_the_first():
    algorithm, heads = drawn(0)
    weights = [head["network.layers.2.weight"] for head in heads.heads]
    assert torch.equal(weights[0], algorithm.get_parameter("network.layers.2.weight"))
    directions = torch.stack([(w[1] - w[0]) / (w[1] - w[0]).norm() for w in weights])
    between = (directions @ directions.T)[~torch.eye(3, dtype=torch.bool)]
    assert float(between.abs().max()) < 0.5  # from one initial head: 1
    for weight in weights[1:]:
        assert torch.equal(weight.flatten().sort().values, weights[0].flatten().sort().values)
    _, again = drawn(0)
    _, other = drawn(1)
    assert all(torch.equal(a[name], b[name]) for a, b in zip(heads.heads, again.heads, strict=True) for name in a)
    assert not torch.equal(other.heads[1]["network.layers.2.weight"], weights[1])


def test_a_new_head_has_no_moments(tmp_path):
    """Adam's first step is as large as its rate, whatever came before: the head's is in every stage, the body's only once."""
    data, steps = stream("domain"), []

    class Looking(Heads):
        def after_update(self, algorithm, episodes):
            head = algorithm.get_parameter("network.layers.2.weight")
            steps.append(((head - self.heads[self.stage]["network.layers.2.weight"]).abs().max().item(), self.stage))

    train(tmp_path, data, Looking(), iterations=5)
    first = [next(size for size, stage in steps if stage == number) for number in range(3)]
    assert first == pytest.approx([0.01] * 3, rel=1e-3)


@pytest.mark.slow
def test_heads_keep_domains_of_real_digits_apart(data_root, tmp_path, monkeypatch):
    """Domain-incremental split MNIST; with one initial head for all stages it was 60 %."""
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))
    data = MNIST(0, root=str(data_root), scenario="domain", stages=5)
    algorithm = learner(data, (400, 400))
    adam = {"_target_": "torch.optim.Adam", "lr": 0.001}
    outcome, _ = train(
        tmp_path, data, method("heads"), iterations=300, algorithm=algorithm, tasks=128, optimizer=adam, test_tasks=10000
    )
    assert np.mean(outcome.rows[-1]) >= 0.9


@pytest.mark.parametrize(("stages", "seen"), [("all", [0, 1, 2, 3, 4, 5]), ("so_far", [0, 1, 2, 3])])
def test_joint_training_sees_the_stages_it_says(stages, seen):
    data = stream("class")
    joint = method("joint", f"cl.stages={stages}")
    joint.on_start(learner(data), data.stages(CPU))
    y = joint.source(1).sample(torch.arange(600)).query.y.flatten()
    assert y.unique().tolist() == seen
    assert int(torch.bincount(y)[seen].min()) > 600 / len(seen) * 0.7


def joint_tasks(data, seed, stage, tasks=600):
    joint = method("joint")
    joint.seed = seed
    joint.on_start(learner(stream()), data.stages(CPU))
    return joint.source(stage).sample(torch.arange(tasks))


def test_joint_training_draws_new_tasks_in_every_stage_and_the_same_when_asked_again():
    sine = Sine(0, shots=3, queries=2, stages=3)
    drawn = torch.cat([joint_tasks(sine, 0, stage).support.x.flatten(1) for stage in range(3)])
    assert len(drawn.unique(dim=0)) == 1800
    assert torch.equal(joint_tasks(sine, 0, 2).support.x.flatten(1), drawn[1200:])
    classes = [joint_tasks(stream("class"), 0, stage).query.y.flatten() for stage in range(2)]
    assert float((classes[0] == classes[1]).float().mean()) < 0.3  # at random: a sixth


def test_joint_training_mixes_stages_by_the_seed():
    data = stream("class")
    zero, one = (joint_tasks(data, seed, 0).query.y.flatten() for seed in (0, 1))
    assert float((zero == one).float().mean()) < 0.5  # which image a task has is the data's own draw, whose seed is one here


def test_a_mixture_is_the_same_in_any_batching():
    whole = Mixture([stage.train for stage in stream("task").stages(CPU)], key=5, first=2**40)
    batch = whole.sample(torch.arange(40))
    for i in (0, 17, 39):
        one = whole.sample(torch.tensor([i]))
        assert torch.equal(one.query.x[0], batch.query.x[i])
        assert torch.equal(one.context["active"][0], batch.context["active"][i])


def test_lwf_distils_the_groups_of_outputs_of_past_stages():
    data = stream("task")
    algorithm, lwf = learner(data), method("lwf")
    lwf.on_start(algorithm, data.stages(CPU))
    lwf.enter(2)
    lwf.on_stage_start(algorithm, 2)
    with torch.no_grad():
        for w in algorithm.parameters():
            w += 0.05 * torch.randn_like(w)
    episodes = data.stages(CPU)[2].train.sample(torch.arange(5))
    found = lwf.loss(algorithm, episodes)
    expected = 0.0
    for group in ([0, 1], [2, 3]):  # temperature 2, and no factor of its square
        old, new = (a.predict(None, episodes.query.x)[:, 0, group] / 2 for a in (lwf.teacher, algorithm))
        expected = expected - (old.softmax(-1) * new.log_softmax(-1)).sum(-1).mean() / 2
    torch.testing.assert_close(found, 2 / 3 * expected)
    found.backward()
    assert all(bool(w.grad.isfinite().all()) for w in algorithm.parameters())
    assert float(lwf.mix(episodes).context["weight"][0]) == pytest.approx(1 / 3)
    assert all(w.grad is None for w in lwf.teacher.parameters())


@pytest.mark.parametrize(("scenario", "old"), [("task", 2.0), ("domain", 2.0), ("class", 1.0)])
def test_lwf_on_split_mnist_weighs_old_and_new_as_published(scenario, old):
    """van de Ven et al. 2022: in stage t the cross entropy and t − 1 times the distillation, class-incrementally once."""
    node = composed("algo=supervised", "data=split_mnist", f"data.scenario={scenario}", "cl=lwf").cl
    lwf = build_method(node)
    data = stream(scenario)
    algorithm = learner(data)
    lwf.on_start(algorithm, data.stages(CPU))
    lwf.enter(2)
    lwf.on_stage_start(algorithm, 2)
    episodes = data.stages(CPU)[2].train.sample(torch.arange(5))
    logits = algorithm.predict(None, episodes.query.x)[:, 0]
    groups = [[0, 1], [2, 3]] if scenario == "task" else [list(range(logits.shape[-1]))]
    distances = [-((logits[:, g] / 2).softmax(-1) * (logits[:, g] / 2).log_softmax(-1)).sum(-1).mean() for g in groups]
    new = float(lwf.mix(episodes).context["weight"][0])
    torch.testing.assert_close(lwf.loss(algorithm, episodes) / new, old * torch.stack(distances).mean())


def test_dark_experience_replay_holds_the_logits_of_all_stages():
    data = stream("task")
    algorithm, der = learner(data), method("der", "cl.alpha=1", "cl.beta=0", "cl.size=10", "cl.draw=10")
    der.on_start(algorithm, data.stages(CPU))
    first = data.stages(CPU)[0].train.sample(torch.arange(10))
    der.after_update(algorithm, first)
    then = algorithm.predict(None, first.query.x)[:, 0].detach()
    with torch.no_grad():
        for w in algorithm.parameters():
            w += 0.1
    seed = torch.get_rng_state()
    picked = torch.randint(10, (10,))
    torch.set_rng_state(seed)
    now = algorithm.predict(None, first.query.x)[:, 0]
    term = der.loss(algorithm, data.stages(CPU)[1].train.sample(torch.arange(10)))
    assert float((now - then).detach()[:, 2:].abs().max()) > 0.01  # outputs of stages to come
    torch.testing.assert_close(term, (now - then).square()[picked].mean())

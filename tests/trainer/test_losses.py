"""What is logged as the loss of training, against twins: it is what the updates descend, and the sum of its parts."""

import json
from functools import partial
from itertools import count

import pytest
import torch
from reference import maml_loss, plain_loss, plain_mlp
from shared_out import made
from streams import learner, method, stopped_and_resumed, stream
from torch.nn import functional as F

from metarun.algo.algorithm import INACTIVE
from metarun.cl.method import ContinualMethod
from metarun.tracking import RunFolder
from metarun.trainer.trainer import Trainer
from metarun.trainer.update import Update

SGD = {"_target_": "torch.optim.SGD", "lr": 0.05}


def trained(path, stages, algorithm, of, *, iterations=4, on_update=lambda step: None, monkeypatch, **keys):
    """Train, and call ``on_update`` with its number before each update → the lines of metrics.jsonl that tell a loss."""
    own, numbers = Update.__call__, count()

    def watched(update, episodes):
        on_update(next(numbers))
        return own(update, episodes)

    with monkeypatch.context() as patch:
        patch.setattr(Update, "__call__", watched)
        settings = {"validate_every": None, "test_tasks": 2, "tensorboard": False, "log_every": 1} | keys
        Trainer(0, iterations=iterations, tasks=4, optimizer=SGD, **settings).fit(algorithm, stages, of, RunFolder(path), "tests")
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "train/loss" in line]


def network(algorithm):
    return {name.removeprefix("network."): w.detach().clone().requires_grad_() for name, w in algorithm.named_parameters()}


def test_the_logged_loss_is_the_mean_of_mamls_query_losses(tmp_path, monkeypatch):
    stages, algorithm = made("maml", "sine")
    expected = []

    def twin(step):
        tasks = stages[0].train.sample(torch.arange(4) + 4 * step)
        forward = lambda w, x, moments: (plain_mlp(w, x), [])  # noqa: E731
        loss = maml_loss(forward, network(algorithm), tasks, rate=algorithm.inner_lr, steps=algorithm.inner_steps)
        expected.append(float(loss.detach()))

    keys = {"iterations": 5, "log_every": 2, "monkeypatch": monkeypatch}
    lines = trained(tmp_path, stages[:1], algorithm, ContinualMethod(), on_update=twin, **keys)
    assert [line["step"] for line in lines] == [2, 4, 5]
    means = [sum(expected[:2]) / 2, sum(expected[2:4]) / 2, expected[4]]
    assert [line["train/loss"] for line in lines] == pytest.approx(means, rel=1e-6)
    assert all(set(line) == {"step", "train/loss", "time/tasks_per_second"} for line in lines)


def plain_stream_loss(algorithm, tasks):
    """Mean cross entropy of single examples; the outputs that are not active masked."""
    logits = plain_mlp(network(algorithm), tasks.query.x.flatten(0, 1).flatten(1))
    if "active" in tasks.context:
        logits = logits.masked_fill(~tasks.context["active"], INACTIVE)
    return float(F.cross_entropy(logits, tasks.query.y.flatten()).detach())


@pytest.mark.parametrize("names", [("ewc",), ("ewc", "l2")])
def test_a_penalty_is_logged_and_part_of_the_loss(names, tmp_path, monkeypatch):
    data = stream("domain")
    stages = data.stages(torch.device("cpu"))
    algorithm, of = learner(data), method(names[0], *(f"+cl@cl.also.{name}={name}" for name in names[1:]))
    parts = getattr(of, "methods", [of])
    expected = []

    def twin(step):
        own = plain_stream_loss(algorithm, stages[step // 4].train.sample(torch.arange(4) + 4 * (step % 4)))
        held = sum(
            one.strength / 2 * float((one.importance[name] * (w.detach() - one.anchor[name]) ** 2).sum())
            for one in parts
            for name, w in algorithm.named_parameters()
            if name in one.importance
        )
        expected.append((own, held))

    lines = trained(tmp_path, stages, algorithm, of, on_update=twin, monkeypatch=monkeypatch)
    assert len(lines) == len(expected) == 12
    for line, (own, held) in zip(lines, expected, strict=True):
        assert line.get("train/learner", line["train/loss"]) == pytest.approx(own, rel=1e-5)
        assert line.get("train/penalty", 0.0) == pytest.approx(held, rel=1e-5, abs=1e-9)
        assert line["train/loss"] == pytest.approx(own + held, rel=1e-5)
    assert ["train/penalty" in line for line in lines] == [False] * 4 + [True] * 8
    assert lines[-1]["train/penalty"] > 0


class Pulling(ContinualMethod):
    """Adds the sum of all weights to the loss."""

    sees_tasks = True

    def loss(self, algorithm, episodes):
        return torch.stack([w.sum() for w in algorithm.parameters()]).sum()


def test_a_loss_of_the_methods_own_has_the_scale_of_the_learners_gradients(tmp_path, monkeypatch):
    found = {}
    for scale, of in ((1.0, ContinualMethod()), (1.0, Pulling()), (0.1, Pulling())):
        data, name = stream("domain", stages=1), f"{type(of).__name__}-{scale}"
        algorithm = learner(data)
        algorithm.gradient_scale = scale
        stages, keys = data.stages(torch.device("cpu")), {"iterations": 1, "monkeypatch": monkeypatch}
        lines = trained(tmp_path / name, stages, algorithm, of, **keys)
        found[name] = torch.cat([w.detach().flatten() for w in algorithm.parameters()]), lines
    plain, whole, tenth = found.values()
    torch.testing.assert_close(plain[0] - whole[0], torch.full_like(plain[0], 0.05), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(plain[0] - tenth[0], torch.full_like(plain[0], 0.005), rtol=1e-3, atol=1e-6)
    assert whole[1][0]["train/extra"] == tenth[1][0]["train/extra"]  # the value itself


def test_the_penalty_is_logged_without_the_scale(tmp_path, monkeypatch):
    data = stream("domain")
    algorithm, of = learner(data), method("l2", "cl.strength=7")
    algorithm.gradient_scale = 0.01
    expected = []

    def twin(step):
        moved = [(w.detach() - of.anchor[name]).square().sum() for name, w in algorithm.named_parameters() if of.anchor]
        expected.append(3.5 * float(sum(moved)))

    lines = trained(tmp_path, data.stages(torch.device("cpu"))[:2], algorithm, of, on_update=twin, monkeypatch=monkeypatch)
    assert [line.get("train/penalty", 0.0) for line in lines] == pytest.approx(expected, rel=1e-5, abs=1e-9)
    assert lines[-1]["train/penalty"] > 0


def test_a_method_that_does_not_penalise_has_no_penalty(tmp_path, monkeypatch):
    data = stream("domain")
    of = method("ewc", "cl.penalise=[false,false,true]")
    lines = trained(tmp_path, data.stages(torch.device("cpu")), learner(data), of, monkeypatch=monkeypatch)
    assert ["train/penalty" in line for line in lines] == [False] * 8 + [True] * 4


def test_a_loss_of_the_methods_own_is_logged_and_the_tasks_weights_count(tmp_path, monkeypatch):
    """Learning without forgetting: in stage t the tasks count 1 of t, the distillation t − 1 of t."""
    data = stream("domain")
    stages = data.stages(torch.device("cpu"))
    algorithm, of = learner(data), method("lwf")
    expected = []

    def twin(step):
        tasks = stages[step // 4].train.sample(torch.arange(4) + 4 * (step % 4))
        stage = step // 4
        own = plain_stream_loss(algorithm, tasks) / (stage + 1)
        if not stage:
            expected.append((own, None))
            return
        x = tasks.query.x.flatten(0, 1).flatten(1)
        before, now = (plain_mlp(network(of_), x).detach() / 2 for of_ in (of.teacher, algorithm))
        extra = stage / (stage + 1) * float(-(before.softmax(-1) * now.log_softmax(-1)).sum(-1).mean())
        expected.append((own, extra))

    lines = trained(tmp_path, stages, algorithm, of, on_update=twin, monkeypatch=monkeypatch)
    for line, (own, extra) in zip(lines, expected, strict=True):
        assert line.get("train/extra") == (None if extra is None else pytest.approx(extra, rel=1e-5))
        assert line["train/loss"] == pytest.approx(own + (extra or 0.0), rel=1e-5)
        if extra is not None:
            assert line["train/learner"] == pytest.approx(own, rel=1e-5)


def test_the_weights_of_replayed_tasks_count(tmp_path, monkeypatch):
    """Every task of an update has a weight; the mean over the update is that of the weighted losses."""
    data = stream("domain")
    algorithm, of = learner(data), method("replay")
    mixed = []
    own = type(of).mix

    def mix(self, episodes):
        mixed.append((own(self, episodes), network(algorithm)))
        return mixed[-1][0]

    monkeypatch.setattr(type(of), "mix", mix)
    lines = trained(tmp_path, data.stages(torch.device("cpu")), algorithm, of, monkeypatch=monkeypatch)
    for line, (tasks, weights) in zip(lines, mixed, strict=True):
        losses = [plain_loss(plain_mlp(weights, x.flatten(1)), y) for x, y in zip(tasks.query.x, tasks.query.y, strict=True)]
        weight = tasks.context.get("weight", torch.ones(len(losses)))
        assert line["train/loss"] == pytest.approx(float((torch.stack(losses).detach() * weight).mean()), rel=1e-5)
    assert len(mixed[-1][0]) == 8
    assert mixed[-1][0].context["weight"].tolist() == pytest.approx([2 / 3] * 4 + [4 / 3] * 4)


def test_a_resumed_run_logs_the_same_parts(tmp_path, monkeypatch):
    """Stopped between two logged steps, in a stage with a penalty."""
    data, keys = stream("domain"), {"log_every": 4}
    resume = partial(stopped_and_resumed, data=data, name="ewc", keys=(), patch=monkeypatch, **keys)
    resume(tmp_path / "early", update=1)
    resume(tmp_path / "late", update=9)
    lines = []
    for name in ("early", "late"):
        told = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        lines.append([{key: value for key, value in line.items() if not key.startswith("time/")} for line in told])
    assert lines[0] == lines[1]
    assert any("train/penalty" in line for line in lines[0])

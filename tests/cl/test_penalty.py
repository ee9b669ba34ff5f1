"""The quadratic: one for all stages, equal to the sum of their terms, and what a strength of 0 or a huge one does."""

import pytest
import torch
from omegaconf.errors import OmegaConfBaseException
from streams import CPU, learner, method, stream, train
from torch.utils._python_dispatch import TorchDispatchMode

from metarun.cl.ewc import EWC
from metarun.cl.l2 import L2
from metarun.cl.method import implicit
from metarun.cl.online_ewc import OnlineEWC
from metarun.cl.penalty import is_on
from metarun.cl.si import SI
from metarun.config import ConfigError


def weights(algorithm):
    return {name: w.detach().clone() for name, w in algorithm.named_parameters()}


def random_like(algorithm):
    return {name: torch.rand_like(w) for name, w in algorithm.named_parameters()}


def penalty_gradient(method, algorithm):
    algorithm.zero_grad()
    method.gradient(algorithm)
    return {name: w.grad for name, w in algorithm.named_parameters()}


@pytest.mark.parametrize("name", ["ewc", "online_ewc", "l2", "mas", "si"])
def test_strength_0_is_none_to_the_bit(name, tmp_path):
    data = stream("domain")
    _, plain = train(tmp_path / "none", data, method("none"))
    _, other = train(tmp_path / name, data, method(name, "cl.strength=0"))
    for a, b in zip(weights(plain).values(), weights(other).values(), strict=True):
        assert torch.equal(a, b)


def test_a_huge_strength_freezes(tmp_path):
    data = stream("domain")
    kept = []

    class Looking(L2):
        def on_stage_end(self, algorithm, stage):
            kept.append(weights(algorithm))
            return super().on_stage_end(algorithm, stage)

    sgd = {"_target_": "torch.optim.SGD", "lr": 1e-9}
    _, algorithm = train(tmp_path, data, Looking(strength=1e9), optimizer=sgd)
    for name, w in weights(algorithm).items():
        torch.testing.assert_close(w, kept[0][name], rtol=0, atol=1e-6)


SGDS = {
    "plain": {},
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "decay": {"weight_decay": 0.01},
}


@pytest.mark.parametrize("sgd", SGDS)
@pytest.mark.parametrize("name", ["ewc", "online_ewc", "l2", "mas", "si"])
def test_no_strength_diverges_under_sgd(name, sgd, tmp_path):
    data, optimizer = stream("domain"), {"_target_": "torch.optim.SGD", "lr": 0.5, **SGDS[sgd]}
    outcome, algorithm = train(tmp_path, data, method(name, "cl.strength=1e10"), iterations=40, optimizer=optimizer)
    assert all(float(w.detach().abs().max()) < 1e3 for w in algorithm.parameters())
    assert all(score is not None for row in outcome.rows for score in row)


@pytest.mark.parametrize(("scale", "decay"), [(1.0, 0.0), (0.1, 0.0), (1.0, 0.3)])
def test_a_step_of_sgd_is_implicit(scale, decay):
    """The new weights w' satisfy w' = w − rate · (gradient + decay · w + scale · strength · importance · (w' − anchor))."""
    data = stream()
    algorithm, stage = learner(data).double(), data.stages(CPU)[0]
    algorithm.gradient_scale = scale
    both = method("ewc", "+cl@cl.also.l2=l2", "cl.strength=50", "cl.also.l2.strength=4")
    both.on_start(algorithm, [stage])
    terms = {50.0: random_like(algorithm), 4.0: random_like(algorithm)}
    anchor = random_like(algorithm)
    for of, importance in zip(both.methods, terms.values(), strict=True):
        of.remember(importance, anchor)
    before, gradient = weights(algorithm), random_like(algorithm)
    for name, w in algorithm.named_parameters():
        w.grad = gradient[name].clone()
    optimizer = torch.optim.SGD(algorithm.parameters(), lr=0.7, weight_decay=decay)
    both.gradient(algorithm)
    implicit(algorithm, both.curvature(algorithm), optimizer)
    optimizer.step()
    for name, w in algorithm.named_parameters():
        pull = sum(strength * importance[name] for strength, importance in terms.items()) * (w.detach() - anchor[name])
        step = gradient[name] + decay * before[name] + scale * pull
        torch.testing.assert_close(w.detach(), before[name] - 0.7 * step)


def test_the_merged_quadratic_is_the_sum_of_its_terms():
    algorithm = learner(stream())
    merged, terms = EWC(strength=3.0), []
    for _ in range(5):
        here, importance = random_like(algorithm), random_like(algorithm)
        importance["network.layers.0.weight"][:4] = 0  # nothing to hold there
        merged.remember(importance, here)
        terms.append((importance, here))
    found = penalty_gradient(merged, algorithm)
    for name, w in algorithm.named_parameters():
        expected = sum(3.0 * importance[name] * (w - here[name]) for importance, here in terms)
        torch.testing.assert_close(found[name], expected.detach(), rtol=1e-5, atol=1e-5)


def test_gamma_is_applied_once():
    algorithm = learner(stream())
    online = OnlineEWC(strength=2.0, gamma=0.5)
    a, b, here = random_like(algorithm), random_like(algorithm), random_like(algorithm)
    online.remember(a, random_like(algorithm))
    online.remember(b, here)
    found = penalty_gradient(online, algorithm)
    for name, w in algorithm.named_parameters():
        torch.testing.assert_close(found[name], (2.0 * (0.5 * a[name] + b[name]) * (w - here[name])).detach())


def test_the_penalty_adds_to_the_gradient_and_is_0_at_the_anchor():
    data = stream()
    algorithm = learner(data)
    ewc = EWC(strength=1e3, labels="exact")
    ewc.on_start(algorithm, data.stages(CPU))
    found = ewc.on_stage_end(algorithm, data.stages(CPU)[0])
    assert found["importance_trace"] > found["importance_max"] > 0
    assert all(float(g.abs().sum()) == 0 for g in penalty_gradient(ewc, algorithm).values())
    with torch.no_grad():
        for w in algorithm.parameters():
            w += 0.1
    algorithm.zero_grad()
    episodes = data.stages(CPU)[1].train.sample(torch.arange(8))
    algorithm.backward(episodes)
    plain = {name: w.grad.clone() for name, w in algorithm.named_parameters()}
    ewc.gradient(algorithm)
    for name, w in algorithm.named_parameters():
        torch.testing.assert_close(w.grad - plain[name], 1e3 * ewc.importance[name] * 0.1, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("normalise", ["mean", "max"])
def test_normalised(normalise):
    data = stream()
    algorithm, stage = learner(data), data.stages(CPU)[0]
    every = torch.cat([f.flatten() for f in EWC(1.0, "exact", normalise=normalise).measure(algorithm, stage).values()])
    assert float(getattr(every, normalise)()) == pytest.approx(1.0, rel=1e-5)


def test_switches_by_stage(tmp_path):
    assert [is_on([True, False], stage) for stage in range(3)] == [True, False, False]
    data = stream("domain")
    _, plain = train(tmp_path / "none", data, method("none"))
    _, off = train(tmp_path / "off", data, method("ewc", "cl.strength=1e4", "cl.penalise=[false]"))
    _, never = train(tmp_path / "never", data, method("ewc", "cl.strength=1e4", "cl.consolidate=[false,false,true]"))
    _, on = train(tmp_path / "on", data, method("ewc", "cl.strength=1e4", "cl.penalise=[false,false,true]"))
    for name, w in weights(plain).items():
        assert torch.equal(weights(off)[name], w)
        assert torch.equal(weights(never)[name], w)
    assert any(not torch.equal(weights(on)[name], w) for name, w in weights(plain).items())


@pytest.mark.parametrize("path", ["loss", "total"])
def test_si_by_hand_in_two_stages(path):
    """One weight, w1 = 2, descended on (w + 1)² / 2 and then on (w − 3)² / 2, and another, w2, whose loss only grows."""
    algorithm = learner(stream())
    weight = algorithm.get_parameter("network.layers.0.weight")
    si = SI(strength=3.0, damping=0.1, path=path)
    w, omega, anchor = torch.tensor([2.0, 1.0]), torch.zeros(2), torch.zeros(2)
    with torch.no_grad():
        weight[0, :2] = w
    for stage, goal in enumerate((-1.0, 3.0)):
        si.enter(stage)
        si.on_stage_start(algorithm, stage)
        begin, integral = w.clone(), torch.zeros(2)
        for _ in range(5):
            loss = torch.stack([w[0] - goal, -w[1]])  # the gradients; that of w2 is − w2, and yet it is made smaller
            total = loss + 6.0 * omega * (w - anchor)  # the gradient of 3 Σ Ω (w − anchor)²
            step = torch.stack([-0.1 * total[0], torch.tensor(-0.05)])
            for name, of in algorithm.named_parameters():
                of.grad = torch.zeros_like(of)
                if name == "network.layers.0.weight":
                    of.grad[0, :2] = loss
            si.gradient(algorithm)
            torch.testing.assert_close(weight.grad[0, :2], total)
            with torch.no_grad():
                weight[0, :2] += step
            si.after_update(algorithm, None)
            integral -= (total if path == "total" else loss) * step
            w = w + step
        assert stage or float(integral[1]) < 0
        new = integral / ((w - begin) ** 2 + 0.1)
        omega, anchor = omega + (new if path == "total" else new.clamp(min=0)), w.clone()
        si.on_stage_end(algorithm, None)
        torch.testing.assert_close(si.importance["network.layers.0.weight"][0, :2], 2 * omega)
    curvature = si.curvature(algorithm)["network.layers.0.weight"][0, :2]
    torch.testing.assert_close(curvature, 6.0 * omega.clamp(min=0))


def test_si_follows_the_path():
    """A quadratic bowl descended in small steps: the path integral of a weight is what it has lowered the loss by."""
    algorithm = learner(stream())
    si = SI(strength=1.0, damping=0.1)
    si.on_stage_start(algorithm, 0)
    start = weights(algorithm)
    for _ in range(200):
        for w in algorithm.parameters():
            w.grad = w.detach().clone()  # of the loss w² / 2
        si.gradient(algorithm)
        with torch.no_grad():
            for w in algorithm.parameters():
                w -= 0.005 * w.grad
        si.after_update(algorithm, None)
    end = weights(algorithm)
    omega = si.measure(algorithm, None)
    for name, w in start.items():
        lowered = (w**2 - end[name] ** 2) / 2
        torch.testing.assert_close(omega[name], 2 * lowered / ((w - end[name]) ** 2 + 0.1), rtol=2e-2, atol=1e-6)


class Counted(TorchDispatchMode):
    """Counts tensor operations and the numbers that they make."""

    def __init__(self):
        super().__init__()
        self.operations = self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        self.numbers += out.numel() if isinstance(out, torch.Tensor) else 0
        return out


def test_fifty_stages_cost_what_one_does():
    algorithm = learner(stream())
    algorithm.backward(stream().stages(CPU)[0].train.sample(torch.arange(8)))
    found = []
    for stages in (1, 50):
        ewc = EWC(1.0)
        for _ in range(stages):
            ewc.remember(random_like(algorithm), weights(algorithm))
        with Counted() as counted:
            ewc.gradient(algorithm)
        held = sum(value.numel() for part in ewc.state_dict().values() for value in part.values())
        found.append((counted.operations, counted.numbers, held))
    assert found[0] == found[1]
    assert found[0][0] > 0


@pytest.mark.parametrize(("scenario", "strength"), [("task", 1e5), ("domain", 1e10), ("class", 1e9)])
def test_published_strengths_belong_to_a_scenario(scenario, strength):
    ewc = method("ewc", "data=split_mnist", f"data.scenario={scenario}")
    assert (ewc.strength, ewc.labels) == (strength, "exact")
    assert method("ewc", "data=split_mnist", "cl.strength=7").strength == 7
    with pytest.raises(OmegaConfBaseException, match="None: expected one of task, domain, class"):
        method("ewc", "data=split_mnist", "data.scenario=null")


def test_mistakes_are_said():
    with pytest.raises(ConfigError, match=r"cl\.strength=-1.0: expected 0 or more"):
        method("ewc", "cl.strength=-1")
    with pytest.raises(ConfigError, match=r"cl\.gamma=2.0: expected 0 to 1"):
        method("online_ewc", "cl.gamma=2")
    with pytest.raises(ConfigError, match=r"cl\.labels=smpled: expected one of sampled, exact, true, argmax"):
        method("ewc", "cl.labels=smpled")

"""What the trainer must know of a method is declared by its class; several at once have what any of them has."""

import pytest
import torch
from shared_out import made
from small import LINE, mlp, regression
from streams import method

from metarun.algo.algorithm import Algorithm
from metarun.cl.fisher import fisher
from metarun.cl.memory import RehearsalMethod
from metarun.cl.method import ContinualMethod, check_declared
from metarun.cl.penalty import QuadraticPenalty
from metarun.config import CONFIGS, ConfigError
from metarun.data.source import TaskSource
from metarun.parts import build_method
from metarun.ranks import ALONE
from metarun.trainer.settings import Settings
from metarun.trainer.sharding import Sharding

METHODS = sorted(path.stem for path in (CONFIGS / "cl").glob("*.yaml"))
SEES = {"agem", "der", "ftml", "lwf", "replay"}
OBSERVES = {"der", "replay", "si"}
GIVES = {"joint"}


def several(*names: str) -> ContinualMethod:
    return method(names[0], *(f"+cl@cl.also.{name}={name}" for name in names[1:]))


def capabilities(of: ContinualMethod) -> tuple[bool, bool, bool]:
    return of.sees_tasks, of.observes, of.gives_tasks


@pytest.mark.parametrize("name", METHODS)
def test_what_each_method_declares(name):
    assert capabilities(method(name)) == (name in SEES, name in OBSERVES, name in GIVES)


@pytest.mark.parametrize("names", [("ewc", "l2"), ("ewc", "si"), ("ewc", "agem"), ("joint", "mas"), ("ewc", "replay", "l2")])
def test_several_have_what_any_of_them_has(names):
    any_of = tuple(bool(set(names) & having) for having in (SEES, OBSERVES, GIVES))
    assert capabilities(several(*names)) == any_of


@pytest.mark.parametrize(
    ("names", "alone"), [(("ewc",), True), (("ewc", "l2"), True), (("ewc", "si"), True), (("l2", "replay"), False)]
)
def test_each_process_samples_its_own_tasks_unless_a_method_sees_them(names, alone):
    _, algorithm = made("maml", "sine")
    settings = Settings(0, iterations=1, tasks=2, optimizer={"_target_": "torch.optim.Adam"})
    assert Sharding(algorithm, several(*names), settings, ALONE).samples_shard == alone


class Watching(ContinualMethod):
    """Written before there was anything to declare."""

    def after_update(self, algorithm, episodes):
        self.last = len(episodes)


class Watched(Watching):
    observes = True
    sees_tasks = False


class Drawing(QuadraticPenalty):
    """Its base declares nothing of tasks."""

    def mix(self, episodes):
        return episodes


class Late(Watched):
    """What its base declares of another `after_update` is no word on this one, unless it is True."""

    def after_update(self, algorithm, episodes):
        self.last = episodes


class Sourced(ContinualMethod):
    def source(self, stage):
        return self.stages[0].train


class Kept(RehearsalMethod):
    sees_tasks = True

    def loss(self, algorithm, episodes):
        return None


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (Watching(), "Watching defines after_update but does not declare observes; add `observes = True`"),
        (Drawing(1.0), "Drawing defines mix but does not declare sees_tasks"),
        (Late(), "Late defines after_update but does not declare sees_tasks"),
        (Sourced(), "Sourced defines source but does not declare gives_tasks"),
    ],
)
def test_a_hook_without_its_attribute_is_refused(found, message):
    with pytest.raises(ConfigError, match=f"^cl: {message}") as caught:
        check_declared(found)
    assert "\n" not in str(caught.value)


def test_a_hook_with_its_attribute_is_not():
    for found in (Watched(), Kept(3, None), ContinualMethod()):
        check_declared(found)


def test_a_method_is_checked_when_it_is_built(monkeypatch):
    monkeypatch.setenv("METARUN_PACKAGES", __name__)
    with pytest.raises(ConfigError, match="Watching defines after_update"):
        build_method({"_target_": f"{__name__}.Watching"})


class Tilted(Algorithm):
    """Takes no steps to look at, and yet a gradient inside its answers."""

    def __init__(self):
        super().__init__(LINE)
        self.network = mlp(1)

    def adapt(self, support, steps=None):
        x = support.x.detach().requires_grad_()
        losses = LINE.kind.losses(self.network(self.network.weights(), x), support.y)
        return torch.autograd.grad(losses.sum(), x, create_graph=True)[0].sum(1, keepdim=True)

    def predict(self, state, x):
        return self.network(self.network.weights(), x) + 10 * state


class Tasks(TaskSource):
    count = None

    def sample(self, ids):
        torch.manual_seed(int(ids[0]))
        return regression(len(ids))


def test_the_fisher_of_a_learner_that_differentiates_inside_takes_a_pass_a_task():
    algorithm = Tilted().double()
    with torch.random.fork_rng():
        found = fisher(algorithm, Tasks(), "true", 3)
    names, weights = zip(*algorithm.named_parameters(), strict=True)
    expected = {name: torch.zeros_like(w) for name, w in zip(names, weights, strict=True)}
    for first in range(3):  # a batch of one task each: see `batches`
        one = Tasks().sample(torch.tensor([first]))
        score = 0.5 * (algorithm.outputs(one) - one.query.y).square().sum()
        for name, gradient in zip(names, torch.autograd.grad(score, weights, allow_unused=True), strict=True):
            if gradient is not None:
                expected[name] += gradient.square() / 3
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)

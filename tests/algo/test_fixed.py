"""Weights made with requires_grad=False: neither loop of any learner moves them."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from reference import gradients_of
from runs import composed
from small import LINE, PICTURES, images, mlp, regression
from torch import nn

from metarun.algo.algorithm import Algorithm
from metarun.algo.gradient_learner import GradientLearner
from metarun.algo.maml import MAML
from metarun.algo.reptile import Reptile
from metarun.build import build
from metarun.config import CONFIGS, ConfigError
from metarun.episodes import Episodes, TaskSpec
from metarun.kinds import CLASSIFICATION
from metarun.model.conv4 import Conv4
from metarun.model.network import Network, as_network
from metarun.parts import build_parts

ALGORITHMS = sorted(path.stem for path in (CONFIGS / "algo").glob("*.yaml"))
NETWORKS = [f"metalearner algo.network={name}" for name in ("lstm", "mann", "snail", "hypernet")]
ON_BOTH = [
    *(name for name in ALGORITHMS if name not in ("oracle", "supervised", "protonet", "matchingnet", "relationnet")),
    *NETWORKS,
    *("reptile algo.inner_optimizer=sgd", "mamlpp algo.per_step=[] algo.multi_step=0", "finetune algo.tune=head"),
    *("taskembed algo.condition=gates", "taskembed algo.outer=reptile", "taskembed algo.encoder=similarity"),
]
CASES = [
    *(("sine", keys) for keys in [*ON_BOTH, "taskembed algo.adapt=nearest", "maml algo.recompute=true"]),
    *(("omniglot", keys) for keys in [*ON_BOTH, "protonet", "matchingnet", "relationnet"]),
]
CLASSES = TaskSpec(CLASSIFICATION, (1, 16, 16), outputs=3, train_outputs=3, name="pictures", train_classes=9)


def with_fixed(outputs: int | None, shape: tuple[int, ...] | None = None, *, data: str = "sine", **keys: object) -> Network:
    """The first layer and the second norm's scale, where there are norms, are fixed."""
    made = mlp(outputs) if data == "sine" else Conv4(shape or CLASSES.input_shape, outputs, filters=4, **keys)
    for name, w in made.named_parameters():
        w.requires_grad_(not name.startswith(("layers.0.", "convs.0.", "norms.1.weight")))
    network = as_network(made)
    assert network.fixed
    return network


def learner(data: str, keys: str) -> Algorithm:
    algo, *others = keys.split()
    node = composed(f"algo={algo}", f"data={data}", *others).algo
    maps = {"features": "maps", "halvings": 2} if algo == "relationnet" else {}
    made: Algorithm = build(node, LINE if data == "sine" else CLASSES, partial(with_fixed, data=data, **maps), key="algo")
    return made


def tasks_of(data: str) -> Episodes:
    if data == "sine":
        return regression(tasks=3, dtype=torch.float32)
    tasks = images(tasks=3, dtype=torch.float32)
    return Episodes(tasks.support, tasks.query, {"classes": torch.arange(9).view(3, 3)})


@pytest.mark.parametrize(("data", "keys"), CASES)
def test_neither_loop_moves_them(data, keys):
    algorithm = learner(data, keys)
    before = {name: w.clone() for name, w in algorithm.named_parameters()}
    fixed = {f"network.{name}" for name in algorithm.network.fixed}
    if algorithm.trains:
        optimizer = torch.optim.Adam(algorithm.parameters(), lr=0.1, weight_decay=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            algorithm.backward(tasks_of(data))
            optimizer.step()
        moved = {name for name, w in algorithm.named_parameters() if not torch.equal(w, before[name])}
        assert moved
        assert not moved & fixed
    algorithm.eval()
    support = tasks_of(data).support
    with torch.no_grad():
        state = algorithm.adapt(support)
        assert algorithm.predict(state, support.x).isfinite().all()
    if isinstance(algorithm, GradientLearner) and set(algorithm.network.weights()) <= set(state.weights):
        slow = algorithm.network.weights()
        for name, w in slow.items():
            stays = torch.equal(state.weights[name].expand(3, *w.shape), w.expand(3, *w.shape))
            assert stays == (name in algorithm.network.fixed | algorithm.frozen), name


class Two(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(1, 5), nn.Linear(5, outputs)
        self.a.requires_grad_(False)

    def forward(self, x):
        return self.b(self.a(x).tanh())


def test_it_is_as_with_the_key_frozen():
    algorithm = MAML(LINE, lambda outputs: as_network(Two(outputs)), 0.1, inner_steps=2).double()
    twin = deepcopy(algorithm)
    twin.requires_grad_(True)
    twin.network.fixed, twin.frozen = frozenset(), frozenset({"a.weight", "a.bias"})
    tasks = regression()
    (losses, found), (expected_losses, expected) = gradients_of(algorithm, tasks), gradients_of(twin, tasks)
    torch.testing.assert_close(losses, expected_losses)
    assert set(found) == {"network.module.b.weight", "network.module.b.bias"}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name])


def test_a_learner_that_is_only_tested_adapts_all_the_same():
    algorithm = MAML(LINE, lambda outputs: as_network(Two(outputs)), 0.1, inner_steps=2).double().eval()
    teacher = deepcopy(algorithm).requires_grad_(False)
    tasks = regression()
    with torch.no_grad():
        expected = algorithm.trajectory(tasks.support, tasks.query.x)
        torch.testing.assert_close(teacher.trajectory(tasks.support, tasks.query.x), expected)
    assert (expected[0] - expected[-1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [MAML, Reptile])
def test_a_network_without_a_weight_to_adapt_is_refused(kind):
    algorithm = kind(
        PICTURES, lambda outputs: as_network(nn.Sequential(nn.Flatten(), nn.Linear(256, 3)).requires_grad_(False)), 0.1
    )
    with pytest.raises(ConfigError, match=r"^model: no weight adapts in the inner loop"):
        algorithm.backward(images(dtype=torch.float32))


class Shut(nn.Sequential):
    def __init__(self, input_shape: tuple[int, ...], outputs: int | None) -> None:
        super().__init__(nn.Linear(1, outputs or 3))
        self.requires_grad_(False)


@pytest.mark.parametrize("algo", ["maml", "reptile"])
def test_a_run_that_would_train_nothing_is_refused(algo, monkeypatch):
    monkeypatch.setenv("METARUN_PACKAGES", __name__)
    config = composed(f"algo={algo}", "data=sine")
    config.model = {"_target_": f"{__name__}.Shut"}
    with pytest.raises(
        ConfigError, match=r"^model: all weights of this network .* requires_grad=False: there is nothing to learn$"
    ):
        build_parts(config)

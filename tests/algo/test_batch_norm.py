"""Whose statistics normalise a query: under each mode, every learner does what its results say."""

from functools import partial
from typing import get_args

import pytest
import torch
from runs import composed
from small import images

from metarun.algo.algorithm import Algorithm, BatchNormMode
from metarun.build import build, config_parameters
from metarun.config import CONFIGS
from metarun.declared import locate
from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.kinds import CLASSIFICATION
from metarun.model.conv4 import Conv4
from metarun.model.norm import Norm

SPEC = TaskSpec(CLASSIFICATION, (1, 16, 16), outputs=3, train_outputs=3, name="pictures", train_classes=6)
LEARNERS = [
    *sorted(path.stem for path in (CONFIGS / "algo").glob("*.yaml")),
    *(f"metalearner algo.network={name}" for name in ("lstm", "mann", "snail", "hypernet")),
    *("nearest algo.space=embedding", "finetune algo.tune=head", "taskembed algo.outer=reptile"),
    "taskembed algo.encoder=similarity",
]
ONE_OUTPUT = {"oracle", "supervised"}  # of regression, and of single examples


def network(outputs: int | None, shape: tuple[int, ...] | None = None, **keys: object) -> Conv4:
    return Conv4(shape or SPEC.input_shape, outputs, filters=4, **keys)


def learner(keys: str, mode: str) -> Algorithm:
    """As the command line builds it, trained on one update, so that there are running statistics and remembered tasks."""
    algo, *others = keys.split()
    node = composed(f"algo={algo}", *others).algo
    node.batch_norm = mode
    model = partial(network, features="maps", halvings=2) if algo == "relationnet" else network
    made: Algorithm = build(node, SPEC, model, key="algo", kind=Algorithm)
    made.train()
    if made.trains:
        tasks = images(tasks=2, shots=3, dtype=torch.float32)
        made.backward(Episodes(tasks.support, tasks.query, {"classes": torch.arange(6).view(2, 3)}))
    return made.eval()


def modes(keys: str) -> tuple[str, ...]:
    node = composed(f"algo={keys.split()[0]}").algo
    hint = config_parameters(locate(node._target_), 2, {})["batch_norm"].annotation
    return tuple(mode for mode in get_args(hint) if mode in get_args(BatchNormMode))


CASES = [(keys, mode) for keys in LEARNERS if keys not in ONE_OUTPUT for mode in modes(keys)]


def first_query(algorithm: Algorithm, tasks: Episodes, others: torch.Tensor | None) -> torch.Tensor:
    """The outputs for the first query of each task, beside ``others``."""
    x = tasks.query.x[:, :1]
    x = x if others is None else torch.cat([x, others], 1)
    query = Examples(x, tasks.query.y[:, :1].expand(-1, x.shape[1]), tasks.query.ways)
    with torch.no_grad():
        return algorithm.predictions(Episodes(tasks.support, query), algorithm.steps, path=False)[-1][:, 0]


@pytest.mark.parametrize(("keys", "mode"), CASES)
def test_a_query_depends_on_others_under_transductive_alone(keys, mode):
    algorithm = learner(keys, mode)
    uses_images = keys not in ("nearest",)  # that compares inputs, which no batch norm touches
    tasks = images(tasks=2, shots=3, dtype=torch.float32)
    alone = first_query(algorithm, tasks, None)
    beside = first_query(algorithm, tasks, 5 * torch.rand(2, 4, 1, 16, 16))
    depends = not torch.allclose(alone, beside, rtol=1e-4, atol=1e-5)
    assert depends == (mode == "transductive" and uses_images)


POOLED = ("finetune", "nearest", "scratch")  # these train on all examples as one batch, or not at all


@pytest.mark.parametrize("keys", [keys for keys, mode in CASES if mode == "support" and keys.split()[0] not in POOLED])
def test_training_under_support_does_not_look_at_other_queries(keys):
    algorithm = learner(keys, "support").train()
    tasks = images(tasks=2, shots=3, queries=1, dtype=torch.float32)

    def loss(others: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        x = torch.cat([tasks.query.x[:, :1], others], 1)
        with torch.no_grad():
            return algorithm.outputs(Episodes(tasks.support, Examples(x, tasks.query.y, 3)))[:, 0]

    torch.testing.assert_close(loss(torch.rand(2, 2, 1, 16, 16)), loss(5 * torch.rand(2, 2, 1, 16, 16)), rtol=1e-4, atol=1e-5)


def test_the_accuracy_by_presentation_is_normalised_by_the_support_set(monkeypatch):
    algorithm = learner("metalearner algo.network=lstm", "support")
    seen: list[Norm] = []
    embed = type(algorithm).embed
    monkeypatch.setattr(type(algorithm), "embed", lambda self, x, norm: (seen.append(norm), embed(self, x, norm))[1])
    algorithm.probe(images(tasks=2, shots=3, dtype=torch.float32))
    recorded, given = seen
    assert given.given is recorded.seen
    assert recorded.seen

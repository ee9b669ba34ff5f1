"""Every continual-learning method with every learner of tasks: it trains through two stages, or one line says why it cannot.

An update in each stage shows that the two go together; hundreds show that together they stay finite.
"""

import re
from functools import cache, partial

import pytest
import torch
from runs import composed
from streams import CPU
from streams import config as method_node

from metarun.build import build
from metarun.config import CONFIGS, ConfigError
from metarun.data.classes import Classes
from metarun.data.images import ImageData
from metarun.data.sine import Sine
from metarun.data.source import TaskShape
from metarun.parts import build_method, make_network
from metarun.tracking import RunFolder
from metarun.trainer import checkpoint
from metarun.trainer.trainer import Trainer

METHODS = sorted(path.stem for path in (CONFIGS / "cl").glob("*.yaml"))
LEARNERS = [*sorted(path.stem for path in (CONFIGS / "algo").glob("*.yaml")), "nearest algo.space=embedding"]
SMALL = {"size": 4, "samples": 3, "inner_steps": 2, "test_steps": 1, "cg_steps": 1, "remembered": 2}
"""Keys of learners and methods that take time."""
ADAM = {"_target_": "torch.optim.Adam", "lr": 0.01}
BESIDE = "anil|cavia|finetune|mamlpp|metalearner|oml|metalstm|metasgd|nearest.*|relationnet|reptile|taskembed"
REFUSED = {  # data, learner and method, in this order: why not
    r"sine (protonet|matchingnet|relationnet) .*": "but data=sine is regression",
    r"pictures oracle .*": "but data=pictures is classification",
    r"pictures supervised .*": "needs classes that are the same in every task",
    r"\w+ (scratch|nearest) (?!none|algo).*": "trains nothing, so there is nothing to keep",
    r"pictures .* progressive": "cl=progressive: needs model=mlp",
    rf"sine ({BESIDE}) progressive": "expected all weights in the network, but",
    r"pictures (protonet|matchingnet|relationnet|finetune|oml|nearest.*) heads": "has no head",
    r"sine metalearner heads": "has no head",
}
"""What is refused, and in which words; `docs/continual.md` has the same as a table."""


@cache
def sines():
    return Sine(0, shots=3, queries=2, stages=2)


@cache
def pictures():
    """Two stages of three classes in each split, eight pictures of each class."""
    generator = torch.Generator().manual_seed(1)
    shades = torch.arange(18).repeat_interleave(8).view(-1, 1, 1, 1) * 10
    images = (torch.randint(0, 60, (18 * 8, 1, 16, 16), generator=generator) + shades).to(torch.uint8)
    numbers = torch.arange(18).view(2, 3, 3).numpy()
    parts = {f"part {i}": dict(zip(("train", "val", "test"), of, strict=True)) for i, of in enumerate(numbers)}
    shape = TaskShape(2, shots=2, queries=1)
    return ImageData("pictures", 0, images, Classes.of_sizes([8] * 18), parts, shape, shape)


def config(algo: str, data: str):
    small = {"sine": ["model.widths=[6,5]"], "omniglot": ["model.filters=2", "++model.halvings=2"]}
    return composed(*f"algo={algo}".split(), f"data={data}", *small[data])


@pytest.fixture(autouse=True)
def nothing_is_saved(monkeypatch):
    monkeypatch.setattr(checkpoint, "save", lambda path, content, previous=None: None)


def refusal(name, algo, cl):
    return next((why for what, why in REFUSED.items() if re.fullmatch(what, f"{name} {algo} {cl}")), None)


def train(name, algo, cl, path, iterations=1, optimizer=ADAM):
    """Updates in each of two stages, by the learner's own optimizer where none is given → (outcome, learner)."""
    data = sines() if name == "sine" else pictures()
    made, node = config(algo, "sine" if name == "sine" else "omniglot"), method_node(cl)
    for of in (made.algo, node):
        of.update({key: value for key, value in SMALL.items() if key in of})
    torch.manual_seed(0)
    optimizer = optimizer or made.trainer.optimizer
    few = {"tasks": 2, "test_tasks": 2, "val_tasks": 2, "validate_every": None, "tensorboard": False}
    trainer = Trainer(0, iterations=iterations, optimizer=optimizer, **few)
    algorithm = build(made.algo, data.spec, partial(make_network, made.model, data.spec), key="algo")
    return trainer.fit(algorithm, data.stages(CPU), build_method(node), RunFolder(path), "tests"), algorithm


@pytest.mark.parametrize("name", ["sine", "pictures"])
@pytest.mark.parametrize("algo", LEARNERS)
def test_it_trains_or_says_why_not(name, algo, tmp_path):
    for cl in METHODS:
        why = refusal(name, algo, cl)
        if why is not None:
            with pytest.raises(ConfigError, match=why):
                train(name, algo, cl, tmp_path)
            continue
        outcome, algorithm = train(name, algo, cl, tmp_path)
        assert [len(row) for row in outcome.rows] == [2, 2, 2]
        assert all(bool(w.isfinite().all()) for w in algorithm.parameters()), cl


def assert_stays_finite(name, algo, path, iterations):
    for cl in METHODS:
        if refusal(name, algo, cl) is None:
            outcome, algorithm = train(name, algo, cl, path / cl, iterations, optimizer=None)
            assert all(bool(w.isfinite().all()) for w in algorithm.parameters()), cl
            assert all(score is not None for row in outcome.rows for score in row), cl


def test_reptile_stays_finite_under_every_method(tmp_path):
    assert_stays_finite("sine", "reptile", tmp_path, 60)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "iterations"), [("sine", 150), ("pictures", 60)])
@pytest.mark.parametrize("algo", LEARNERS)
def test_it_stays_finite(name, iterations, algo, tmp_path):
    assert_stays_finite(name, algo, tmp_path, iterations)

"""Every pair of choices: it builds, or one line says why not.

All combinations would be a hundred thousand. Each choice is composed once, and the nodes of two choices are put together. No data
are read: sets of images are taken by the shape of their tasks. How each continual-learning method does with each learner is in
`cl/test_combinations.py`, what `presets/` adds in `test_presets.py`.
"""

import re
from functools import cache, partial
from itertools import product

import pytest
from omegaconf import OmegaConf
from runs import composed

from metarun.algo.algorithm import Algorithm
from metarun.build import build, config_parameters
from metarun.cl.method import ContinualMethod
from metarun.config import CONFIGS, ConfigError
from metarun.data.source import Data
from metarun.declared import locate
from metarun.episodes import TaskSpec
from metarun.kinds import CLASSIFICATION
from metarun.parts import build_method, check_optimizer, make_network
from metarun.trainer.budget import Budget
from metarun.trainer.trainer import Trainer

CHOICES = {
    group: sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))
    for group in ("algo", "data", "model", "cl", "trainer", "budget")
}
SHAPES = {"omniglot": (1, 28, 28), "mnist": (1, 28, 28), "miniimagenet": (3, 84, 84), "cifar": (3, 32, 32), "fc100": (3, 32, 32)}
SMALL = {"filters": 2, "widths": [4, 4, 4, 4], "hidden": 8, "width": 8}

REFUSED = {  # algorithm, data and model: why not
    r"oracle (?!sine|linear).*": "learns regression alone, but data=",
    r"oracle sine_stream .*": "told a task's true parameters, and these data have none",
    r"(protonet|matchingnet|relationnet) (sine|linear)\w* .*": "learns classification alone, but data=",
    r"\w+ (sine|linear)\w* (conv4|resnet12)": "expected images (channels, height, width)",
    r"supervised (?!sine|linear|split|permuted|rotated).*": "needs classes that are the same in every task",
    r"(?!supervised)\w+ (split|permuted|rotated)_\w+ .*": "gives single examples",
}


@cache
def spec_of(name: str) -> TaskSpec:
    node = composed(f"data={name}").data
    kind = locate(node._target_, Data)
    if kind.__module__.rpartition(".")[2] in ("sine", "linear", "sine_stream"):
        return build(node, 0, key="data", kind=Data).spec
    known = set(config_parameters(kind, 1, {}))
    assert set(node) - {"_target_"} <= known, name
    shape = next((shape for part, shape in SHAPES.items() if part in name), (3, 32, 32))
    stream = node.get("scenario") is not None
    ways = 10 if stream else node.ways
    return TaskSpec(CLASSIFICATION, shape, ways, ways, name, 64, examples=stream)


def small(node):
    """A node with narrow layers, all the way down."""
    node = OmegaConf.create(OmegaConf.to_container(node))
    for key in node:
        if OmegaConf.is_dict(node[key]):
            node[key] = small(node[key])
        elif key in SMALL:
            node[key] = SMALL[key]
    return node


def outcome(algo: str, data: str, model: str | None) -> str:
    """ "built", or why not."""
    spec = spec_of(data)
    network = small(composed(f"data={data}").model if model is None else composed(f"model={model}").model)
    try:
        node = small(composed(f"algo={algo}").algo)
        assert isinstance(build(node, spec, partial(make_network, network, spec), key="algo", kind=Algorithm), Algorithm)
    except ConfigError as error:
        return str(error)
    return "built"


@pytest.mark.parametrize("algo", CHOICES["algo"])
def test_an_algorithm_on_every_data_set_and_network(algo):
    for data, model in product(CHOICES["data"], [None, *CHOICES["model"]]):
        found = outcome(algo, data, model)
        why = next((why for what, why in REFUSED.items() if re.fullmatch(what, f"{algo} {data} {model}")), None)
        assert "\n" not in found
        if why is None:
            assert found == "built", (algo, data, model, found)
        else:
            assert why in found, (algo, data, model, found)


def test_every_two_continual_methods():
    for first, second in product(CHOICES["cl"], repeat=2):
        own, other = (OmegaConf.to_container(composed(f"cl={name}").cl) for name in (first, second))
        try:
            assert isinstance(build_method(OmegaConf.create({**own, "also": {second: other}})), ContinualMethod)
        except ConfigError as error:
            why = str(error)
            refused = re.fullmatch(r"cl: \w+ and \w+ cannot be combined: .+; (use|remove) .+", why)
            assert refused or why == "cl: two of the methods replace the source of tasks; remove one of them"


def test_every_trainer_with_every_budget():
    for name, budget in product(CHOICES["trainer"], CHOICES["budget"]):
        trainer = build(composed(f"trainer={name}").trainer, 0, key="trainer", kind=Trainer)
        check_optimizer(trainer)
        made = build(composed(f"budget={budget}").budget, key="budget", kind=Budget)
        assert 0 < made.iterations(trainer.iterations, 1.0) <= trainer.iterations

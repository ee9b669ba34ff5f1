"""Presets: each belongs to one pair of choices and is drawn in by it alone; what wins over what."""

import re
from functools import reduce
from operator import or_
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from runs import composed

from metarun.algo.algorithm import Algorithm
from metarun.build import config_parameters, locate
from metarun.cl.method import ContinualMethod
from metarun.config import CONFIGS
from metarun.data.source import Data
from metarun.trainer.budget import Budget
from metarun.trainer.trainer import Trainer

GROUPS = ("algo", "kind", "data", "cl", "budget", "trainer")
CHOICES = {group: sorted(path.stem for path in (CONFIGS / group).glob("*.yaml")) for group in GROUPS}
PRESETS = sorted(path.stem for path in (CONFIGS / "presets").glob("*.yaml"))
PACKAGES = {("algo", "kind"): "_global_", ("algo", "data"): "_global_", ("cl", "data"): "cl", ("algo", "budget"): "budget"}
"""The two groups that a preset may be for, and the part of the configuration that it then sets."""
PLAIN = {"curves": "linear", "images": "mnist", "stream": "rotated_mnist"}
"""A data set of each kind on which the learners with a preset for the kind have none for the data set."""
CLASSES = {"algo": (Algorithm, 2), "data": (Data, 1), "cl": (ContinualMethod, 0), "trainer": (Trainer, 1), "budget": (Budget, 0)}
"""The class that each group builds, and how many arguments of its constructor are no keys."""


def readings(preset: str) -> list[dict[str, str]]:
    """Each way to read a preset's name as two choices, such as {"algo": "maml", "kind": "images"}."""
    splits = [(preset[: at.start()], preset[at.end() :]) for at in re.finditer("_", preset)]
    return [
        {who: left, where: right}
        for who, where in PACKAGES
        for left, right in splits
        if left in CHOICES[who] and right in CHOICES[where]
    ]


def content_of(preset: str, package: str) -> dict[str, Any]:
    """What a preset sets, by group, with what it takes over from another one."""
    content = yaml.safe_load((CONFIGS / "presets" / f"{preset}.yaml").read_text())
    parents = [content_of(parent, package) for parent in content.pop("defaults", [])]
    return reduce(or_, [*parents, content if package == "_global_" else {package: content}])


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_belongs_to_one_pair_of_choices(preset):
    (pair,) = readings(preset)
    package, about, *_ = (CONFIGS / "presets" / f"{preset}.yaml").read_text().splitlines()
    assert package == f"# @package {PACKAGES[tuple(pair)]}"
    assert about.startswith("# ")


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_applies_to_its_pair_and_sets_known_keys(preset):
    (pair,) = readings(preset)
    chosen = {"data": PLAIN[pair["kind"]], **pair} if "kind" in pair else pair
    config = composed(*(f"{group}={choice}" for group, choice in chosen.items() if group != "kind"))
    content = content_of(preset, PACKAGES[tuple(pair)])
    if "cl" not in pair:  # whose strengths depend on the scenario
        assert OmegaConf.merge(config, content) == config
    for group, keys in content.items():
        assert set(keys) <= set(config[group])
    for group, (kind, given) in CLASSES.items():
        known = set(config_parameters(locate(config[group]._target_, object if group == "algo" else kind), given, {}))
        assert set(config[group]) - {"_target_"} <= known, group


def test_what_wins(tmp_path):
    """Kind, then data set, then budget; a paper's row and the command line win over all of them."""
    (tmp_path / "presets").mkdir()
    (tmp_path / "paper").mkdir()
    files = {
        "presets/anil_curves": "# @package _global_\nalgo: {inner_lr: 1.0, inner_steps: 1, test_steps: 1}\ntrainer: {tasks: 1}\n",
        "presets/anil_sine": "# @package _global_\nalgo: {inner_lr: 2.0, inner_steps: 2}\n",
        "presets/mas_sine": "# @package cl\nstrength: 3.0\n",
        "presets/anil_short": "# @package budget\nshare: 0.5\n",
        "paper/mine": "# @package _global_\nalgo: {inner_lr: 4.0}\n",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.yaml").write_text(text)
    searched = f"hydra.searchpath=[file://{tmp_path}]"

    general = composed(searched, "algo=anil", "data=linear")
    assert (general.algo.inner_lr, general.algo.inner_steps, general.trainer.tasks) == (1.0, 1, 1)
    special = composed(searched, "algo=anil", "data=sine", "cl=mas", "budget=short")
    assert (special.algo.inner_lr, special.algo.inner_steps, special.algo.test_steps, special.trainer.tasks) == (2.0, 2, 1, 1)
    assert (special.cl.strength, special.budget.share, special.budget.test_tasks) == (3.0, 0.5, 200)
    assert composed(searched, "algo=anil", "+paper=mine").algo.inner_lr == 4.0
    assert composed(searched, "algo=anil", "+paper=mine", "algo.inner_lr=5").algo.inner_lr == 5
    assert composed(searched, "algo=maml", "data=sine").algo.inner_lr == 0.01


def test_a_users_preset(here):
    folder = here.folder / "conf/presets"
    folder.mkdir(parents=True)
    mine = folder / "anil_sine.yaml"
    mine.write_text("# @package _global_\nalgo:\n  inner_lr: 0.25\n")
    assert "inner_lr: 0.25" in here("algo=anil", "--cfg", "job").stdout
    layers = here("algo=anil", "--info", "defaults").stdout
    assert layers.index("algo/anil") < layers.index("presets/anil_sine") < layers.index("budget/full")

    mine.write_text("algo:\n  inner_lr: 0.25\n")
    error = here("algo=anil", "--cfg", "job", status=2).stderr
    assert error.endswith(
        "conf/presets/anil_sine.yaml: expected a line `# @package _global_` (of a learner), `# @package cl` (of a"
        " continual-learning method) or `# @package budget`\n"
    )

    mine.rename(folder / "maml_linear.yaml")
    error = here("algo=maml", "--cfg", "job", status=2).stderr
    assert "conf/presets/maml_linear.yaml: metarun's own preset of this name wins" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("data", CHOICES["data"])
def test_data_state_their_kind(data):
    content = yaml.safe_load((CONFIGS / "data" / f"{data}.yaml").read_text())
    (kind,) = [value for entry in content["defaults"] for key, value in entry.items() if key.startswith("override /kind")]
    assert kind in CHOICES["kind"]


def test_a_kind_brings_a_trainer_and_a_network():
    """Unless the data set has another one: split_cifar100 is a stream of images."""
    data = ("data=sine", "data=mnist", "data=split_mnist", "data=split_cifar100")
    brought = [
        (config.trainer.tasks, config.model._target_.rpartition(".")[2])
        for config in [composed(of, "algo=protonet") for of in data]
    ]
    assert brought == [(25, "MLP"), (8, "Conv4"), (128, "MLP"), (128, "Conv4")]


@pytest.mark.parametrize("data", CHOICES["data"])
@pytest.mark.parametrize("algo", ["maml", "reptile", "anil"])
def test_another_trainer_leaves_the_learner_as_it_is(algo, data):
    """What holds for images hangs on the data, not on the outer loop that these bring along."""
    usual = composed(f"algo={algo}", f"data={data}")
    for trainer in CHOICES["trainer"]:
        other = composed(f"algo={algo}", f"data={data}", f"trainer={trainer}")
        assert [other[group] for group in ("algo", "data", "model", "cl")] == [
            usual[group] for group in ("algo", "data", "model", "cl")
        ]


def test_learners_of_images_are_tuned_for_images():
    tuned = composed("algo=maml", "data=cifarfs", "trainer=default")
    assert (tuned.algo.inner_lr, tuned.algo.inner_steps, tuned.model.filters, tuned.data.train_queries) == (0.05, 5, 32, 5)

"""Every row under `+paper=` composes, is what its name says, and builds; nothing is trained and no data are read."""

import re
from functools import partial

import pytest
import yaml
from omegaconf import OmegaConf
from runs import composed

from metarun.algo.algorithm import Algorithm
from metarun.build import build, config_parameters
from metarun.config import CONFIGS, NO_EFFECT
from metarun.declared import locate
from metarun.episodes import TaskSpec
from metarun.kinds import CLASSIFICATION
from metarun.parts import make_network
from metarun.tracking import flat
from metarun.trainer.optimizer import DECAYS
from metarun.trainer.trainer import Trainer

PAPERS = sorted(path.stem for path in (CONFIGS / "paper").glob("*.yaml"))
NAME = re.compile(r"([a-z]+)_([a-z]+)_(?:(\d+)way_)?(\d+)shot(_transductive)?")
IMAGES = {"omniglot": ((1, 28, 28), 20), "miniimagenet": ((3, 84, 84), 600), "cifarfs": ((3, 32, 32), 600)}
"""Shape of an image, and images of a class."""


each_row = pytest.mark.parametrize("name", PAPERS, scope="module")
"""All tests of a row follow one another, so that a worker composes it once."""


def text_of(group: str, name: str) -> str:
    return (CONFIGS / group / f"{name}.yaml").read_text()


def said_by(name: str) -> dict[str, str | int | float | bool]:
    """The keys that a row sets, with their values: its own, and those of the rows that it builds on."""
    content = yaml.safe_load(text_of("paper", name))
    parents = [entry for entry in content.pop("defaults", []) if isinstance(entry, str)]
    return {key: value for parent in parents for key, value in said_by(parent).items()} | flat(content)


def spec_of(data) -> TaskSpec:
    name = data._target_.split(".")[-2]
    if name == "sine":
        return build(data, 0, key="data").spec
    return TaskSpec(CLASSIFICATION, IMAGES[name][0], data.ways, data.train_ways or data.ways, name, 64)


@each_row
def test_a_row_builds(name):
    config = composed(f"+paper={name}", hydra_part=True)
    algo, data, ways, shots, transductive = NAME.fullmatch(name).groups()
    choices = config.hydra.runtime.choices
    learner = config.algo.network if choices.algo == "metalearner" else choices.algo
    assert (learner, choices.data) == (algo, data)
    assert (config.data.get("ways"), config.data.shots) == (ways and int(ways), int(shots))
    if algo == "reptile":
        assert config.algo.batch_norm == ("transductive" if transductive else "one_query")

    assert set(config.data) - {"_target_"} <= set(config_parameters(locate(config.data._target_), 1, {}))
    for kind in ("", "train_"):
        count = sum(config.data[kind + key] or config.data[key] for key in ("shots", "queries"))
        assert count <= IMAGES.get(data, (None, count))[1]

    spec = spec_of(config.data)
    algorithm = build(config.algo, spec, partial(make_network, config.model, spec), key="algo")
    assert isinstance(algorithm, Algorithm)
    trainer: Trainer = build(config.trainer, 0, key="trainer")
    assert trainer.keep_best == 0 or trainer.validate_every
    optimizer = build(trainer.optimizer, list(algorithm.parameters()), key="trainer.optimizer")
    schedule = trainer.scheduler
    if isinstance(schedule, str):  # as the trainer does
        target, over = DECAYS[schedule]
        schedule = {"_target_": f"torch.optim.lr_scheduler.{target}", over: trainer.iterations}
    if schedule is not None:
        scheduler = build(schedule, optimizer, key="trainer.scheduler")
        optimizer.step()
        scheduler.step()


@each_row
def test_a_row_is_told(name):
    first, title, *rest = text_of("paper", name).splitlines()
    assert first == "# @package _global_"
    assert title.startswith("# ")
    assert f"#   metarun +paper={name}" in "\n".join(rest)
    assert sum(line.startswith("# Published") for line in rest) == 1
    assert all(len(line) <= 132 for line in rest)


def protocol_of(config) -> dict[str, str | int | float | bool]:
    """Every key, with its value, that decides what a run measures, but for how its tasks are worked off."""
    found = flat(OmegaConf.to_container(config))
    read = config.algo.get("network")
    return {
        key: value
        for key, value in found.items()
        if key.partition(".")[0] in ("model", "algo", "data", "trainer")
        and key.split(".", 1)[1] not in (*NO_EFFECT["data"], *NO_EFFECT["trainer"], *WORK, "_target_")
        and not (key.startswith("algo.networks.") and (not key.startswith(f"algo.networks.{read}.") or key.endswith("_target_")))
    }


WORK = ("task_chunk", "recompute", "stages", "stage_by", "reset_optimizer", "order", "switch", "detect")
WORK += ("nonfinite", "deterministic", "precision")
"""Of memory, of streams that no row has, and of how a run guards itself."""


@each_row
def test_a_row_says_all_of_its_protocol(name):
    """`algo/` and `presets/` apply before a row and suit small budgets: a row leaves no key of its protocol to them."""
    config = composed(f"+paper={name}", hydra_part=True)
    protocol, said = protocol_of(config), said_by(name)
    assert protocol.keys() - said.keys() == set()
    assert protocol == {key: said[key] for key in protocol}


TENSORFLOW = ("maml", "fomaml", "anil", "reptile")
"""Learners whose code is in TensorFlow."""
TORCH7 = ("metalstm_miniimagenet", "finetune_miniimagenet", "nearest_miniimagenet", "matchingnet_miniimagenet")


@each_row
def test_a_row_has_its_released_codes_details(name):
    """A second statement of what the released codes say, independent of the rows."""
    config = composed(f"+paper={name}", hydra_part=True)
    algo, data = name.split("_")[:2]
    clip = {"metalstm": 0.25, "relationnet": 0.5}.get(algo)
    clip_value = 10.0 if algo in ("maml", "fomaml", "anil", "mamlpp", "cavia") and data in ("miniimagenet", "cifarfs") else None
    assert (config.trainer.clip, config.trainer.clip_value) == (clip, clip_value)
    if "filters" in config.model:
        old = (algo in TENSORFLOW and data != "sine") or name.startswith(TORCH7)
        assert config.model.eps == (0.001 if old else 0.00001)
        assert config.model.slope == (0.01 if algo == "mamlpp" else 0.0)
        imagenet = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]
        inverted = data == "omniglot" and algo in ("mamlpp", "reptile", "imaml")
        standardised = {"cavia_miniimagenet": imagenet, "mamlpp_miniimagenet": imagenet}.get(f"{algo}_{data}")
        if algo != "relationnet":
            assert config.model.standardise == ([[1.0], [-1.0]] if inverted else standardised)
    schedules = {"mamlpp_omniglot", "cavia_miniimagenet"} | {f"{a}_{d}" for a in ("protonet", "relationnet") for d in IMAGES}
    falls = algo == "reptile" or f"{algo}_{data}" in schedules
    assert (config.trainer.scheduler is not None) == falls
    assert config.trainer.optimizer._target_.rpartition(".")[2] == {"reptile": "SGD", "mann": "RMSprop"}.get(algo, "Adam")


def test_a_left_over_key_of_a_schedule_would_be_found():
    merged = OmegaConf.merge(
        {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 10},
        {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": 10},
    )
    with pytest.raises(ValueError, match="step_size: no such key"):
        build(merged, None, key="trainer.scheduler")

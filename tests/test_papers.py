"""Every row under `+paper=` composes, is what its name says, and builds; nothing is trained and no data are read."""

import re
from functools import partial
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from metarun.algo.algorithm import Algorithm
from metarun.build import build, config_parameters, locate
from metarun.config import CONFIGS
from metarun.episodes import TaskSpec
from metarun.run import make_network
from metarun.tracking import flat
from metarun.trainer.trainer import FALLING, Trainer

PAPERS = sorted(path.stem for path in (CONFIGS / "paper").glob("*.yaml"))
NAME = re.compile(r"([a-z]+)_([a-z]+)_(?:(\d+)way_)?(\d+)shot(_transductive)?")
IMAGES = {"omniglot": ((1, 28, 28), 20), "miniimagenet": ((3, 84, 84), 600), "cifarfs": ((3, 32, 32), 600)}
"""Shape of an image, and images of a class."""


@pytest.fixture(scope="module", autouse=True)
def configs():
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        yield


def text_of(group: str, name: str) -> str:
    return (CONFIGS / group / f"{name}.yaml").read_text()


def keys_of(group: str, name: str) -> set[str]:
    """The keys that a file sets, with those of the files of its own group that it inherits from."""
    content = yaml.safe_load(text_of(group, name))
    parents = [entry for entry in content.pop("defaults", []) if isinstance(entry, str)]
    folder = Path(name).parent
    return set(flat(content)).union(*(keys_of(group, (folder / parent).as_posix()) for parent in parents))


def spec_of(data) -> TaskSpec:
    name = data._target_.split(".")[-2]
    if name == "sine":
        return build(data, 0, key="data").spec
    return TaskSpec("classification", IMAGES[name][0], data.ways, data.train_ways or data.ways, name, 64)


@pytest.mark.parametrize("name", PAPERS)
def test_a_row_builds(name):
    config = compose("config", [f"+paper={name}"], return_hydra_config=True)
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
        target, over = FALLING[schedule]
        schedule = {"_target_": f"torch.optim.lr_scheduler.{target}", over: trainer.iterations}
    if schedule is not None:
        scheduler = build(schedule, optimizer, key="trainer.scheduler")
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("name", PAPERS)
def test_a_row_is_told(name):
    first, title, *rest = text_of("paper", name).splitlines()
    assert first == "# @package _global_"
    assert title.startswith("# ")
    assert f"#   metarun +paper={name}" in "\n".join(rest)
    assert sum(line.startswith("# Published") for line in rest) == 1
    assert all(len(line) <= 132 for line in rest)


@pytest.mark.parametrize("name", PAPERS)
def test_a_row_leaves_nothing_to_what_suits_the_pair(name):
    """`pair/` is drawn in before a row and tuned for small budgets: a row sets back whatever stands there."""
    algo, data = NAME.fullmatch(name).groups()[:2]
    learner = "metalearner" if algo in ("mann", "snail") else algo
    for pair in (f"{learner}_{data}", *([f"kind/{learner}_images"] if data in IMAGES else [])):
        if (CONFIGS / "pair" / f"{pair}.yaml").is_file() and not excluded(Path("pair", pair).parent.as_posix(), name):
            assert keys_of("pair", pair) <= keys_of("paper", name)


def excluded(group: str, name: str) -> bool:
    """Whether a row, or one it inherits from, leaves out the group."""
    text = text_of("paper", name)
    parents = [entry for entry in yaml.safe_load(text)["defaults"] if isinstance(entry, str)]
    return f"override /{group}: null" in text or any(excluded(group, parent) for parent in parents)


def test_a_left_over_key_of_a_schedule_would_be_found():
    merged = OmegaConf.merge(
        {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 10},
        {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": 10},
    )
    with pytest.raises(ValueError, match="step_size: no such key"):
        build(merged, None, key="trainer.scheduler")

"""The run of joint training that intransigence is measured against, and whether it may be."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from metarun.cl.joint import Joint
from metarun.config import FORMER, NO_EFFECT, ConfigError
from metarun.data.source import Stage
from metarun.tracking import RunFolder, flat

ALIKE = ("data", "algo", "model")
"""Nodes of the configuration that both runs have in common: the stages and the learner."""
BUDGET = ("trainer.iterations", "trainer.tasks", "trainer.test_tasks", "trainer.report_steps")


def joint_scores(path: str, config: DictConfig, results: Mapping[str, Any], stages: Sequence[Stage]) -> dict[str, float]:
    """By stage, in the order taken, the score on it of a learner trained jointly up to it, from the finished run in ``path``.

    Args:
        path: run directory of the reference.
        config: that runs, for which the reference is wanted.
        results: what is known of its results before training.
        stages: its stages, in the order of the data.

    Raises:
        ConfigError: there is no such run, or it does not suit the one that it is wanted for.
    """
    if len(stages) == 1 or config.trainer.switch is not None:
        why = "one stage" if len(stages) == 1 else "no boundaries between stages (trainer.switch)"
        raise ConfigError(f"reference={path}: this run has {why}; intransigence is measured at the end of each stage; leave it out")
    folder = RunFolder(path)
    found = folder.results() or {}
    mismatch = next(_mismatches(folder, found, config, results, [stage.name for stage in stages]), None)
    if mismatch is not None:
        raise ConfigError(f"reference={path}: {mismatch}")
    R, names = found["continual"]["R"], found["continual"]["stages"]
    return {name: float("nan") if R[j + 1][j] is None else R[j + 1][j] for j, name in enumerate(names)}


def _mismatches(
    folder: RunFolder, found: Mapping[str, Any], config: DictConfig, results: Mapping[str, Any], stages: list[str]
) -> Iterator[str]:
    """What was expected of a reference and what was found, one after another; none is asked for after the first."""
    method = "cl=joint cl.stages=so_far"
    if found.get("status") != "finished":
        yield f"expected a finished run of {method}, found {found.get('status', 'none')}"
    stream = found["continual"] or {}
    options = stream.get("options") or {}
    joint = options.get("_target_") == f"{Joint.__module__}.{Joint.__name__}" and not options.get("also")
    if not joint or options["stages"] != "so_far":
        which = f" cl.stages={options['stages']}" if joint else ""
        yield f"expected a run of {method}, found cl={found['cl']}{which}"
    if not (found.get("tested") or {}).get("digest"):
        yield (
            "expected a run that records its test tasks, found one of an earlier version; make it again with restart=true"
            " (`metarun eval` tests the last weights alone, not those at the end of each stage)"
        )
    own, other = _told(config), _told(_configuration(folder))
    for key in dict.fromkeys([*own, *other]):
        if own.get(key) != other.get(key):
            yield f"expected {key}={own.get(key)}, as in this run, found {other.get(key)}"
    if found["tested"]["digest"] != results["tested"]["digest"]:
        yield f"expected the test tasks of this run, of seed {results['seed']}, found others, of seed {found['seed']}"
    order = config.trainer.order
    if order == "given" and stream["stages"] != stages:
        yield f"expected the stages in the order {'; '.join(stages)}; found {'; '.join(stream['stages'])}"
    if order not in ("given", stream["order"]):
        yield f"expected trainer.order={order}, as in this run, found {stream['order']}"


def _configuration(folder: RunFolder) -> DictConfig:
    try:
        return folder.configuration()
    except OSError as error:
        raise ConfigError(f"reference={folder.path}: its configuration is not readable ({error})") from None


def _told(config: DictConfig) -> dict[str, Any]:
    """The keys that must be equal, with their values; one that a run's version did not have has the value that does the same."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    told = flat(FORMER) | flat({node: plain[node] for node in (*ALIKE, "trainer")})
    aside = {f"{node}.{key}" for node, keys in NO_EFFECT.items() for key in keys}
    return {key: value for key, value in told.items() if key in BUDGET or (key.split(".")[0] in ALIKE and key not in aside)}

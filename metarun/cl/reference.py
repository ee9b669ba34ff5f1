"""The joint-training run that serves as reference for intransigence, and checks that it is comparable."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from metarun.cl.joint import Joint
from metarun.config import FORMER, NO_EFFECT, ConfigError
from metarun.data.source import Stage
from metarun.tracking import RunFolder, flat

SHARED = ("data", "algo", "model")
"""Nodes of the configuration that must be equal in both runs: the stages and the learner."""
BUDGET = ("trainer.iterations", "trainer.tasks", "trainer.test_tasks", "trainer.report_steps")


def joint_scores(path: str, config: DictConfig, results: Mapping[str, Any], stages: Sequence[Stage]) -> dict[str, float]:
    """The score on each stage of a learner trained jointly on all stages up to it, in training order, from the run in ``path``.

    Args:
        path: run directory of the reference.
        config: configuration of the run to be compared with the reference.
        results: results of that run that are known before training.
        stages: stages of that run, in the order of the data set.

    Raises:
        ConfigError: there is no finished run in ``path``, or it is not comparable.
    """
    if len(stages) == 1 or config.trainer.switch is not None:
        why = "one stage" if len(stages) == 1 else "no boundaries between stages (trainer.switch)"
        raise ConfigError(f"reference={path}: this run has {why}, so intransigence is not defined; remove reference")
    folder = RunFolder(path)
    reference = folder.results() or {}
    mismatch = next(_mismatches(folder, reference, config, results, [stage.name for stage in stages]), None)
    if mismatch is not None:
        raise ConfigError(f"reference={path}: {mismatch}")
    R, names = reference["continual"]["R"], reference["continual"]["stages"]
    return {name: float("nan") if R[j + 1][j] is None else R[j + 1][j] for j, name in enumerate(names)}


def _mismatches(
    folder: RunFolder, reference: Mapping[str, Any], config: DictConfig, results: Mapping[str, Any], stages: list[str]
) -> Iterator[str]:
    """Messages about the requirements that the reference does not meet; the caller takes the first only."""
    method = "cl=joint cl.stages=so_far"
    if reference.get("status") != "finished":
        yield f"expected a finished run of {method}, found {reference.get('status', 'none')}"
    stream = reference["continual"] or {}
    options = stream.get("options") or {}
    joint = options.get("_target_") == f"{Joint.__module__}.{Joint.__name__}" and not options.get("also")
    if not joint or options["stages"] != "so_far":
        which = f" cl.stages={options['stages']}" if joint else ""
        yield f"expected a run of {method}, found cl={reference['cl']}{which}"
    if not (reference.get("tested") or {}).get("digest"):
        yield (
            "expected a run that records its test tasks, found one of an earlier version; run it again with restart=true"
            " (`metarun eval` tests only the last weights, not those at the end of each stage)"
        )
    own, other = _comparable(config), _comparable(_configuration(folder))
    for key in dict.fromkeys([*own, *other]):
        if own.get(key) != other.get(key):
            yield f"expected {key}={own.get(key)}, as in this run, found {other.get(key)}"
    if reference["tested"]["digest"] != results["tested"]["digest"]:
        yield f"expected the test tasks of this run (seed {results['seed']}), found those of seed {reference['seed']}"
    order = config.trainer.order
    if order == "given" and stream["stages"] != stages:
        yield f"expected the stages in the order {'; '.join(stages)}; found {'; '.join(stream['stages'])}"
    if order not in ("given", stream["order"]):
        yield f"expected trainer.order={order}, as in this run, found {stream['order']}"


def _configuration(folder: RunFolder) -> DictConfig:
    try:
        return folder.configuration()
    except OSError as error:
        raise ConfigError(f"reference={folder.path}: its configuration cannot be read ({error})") from None


def _comparable(config: DictConfig) -> dict[str, Any]:
    """The keys that must be equal, with their values; a key added after the run's version takes its former value."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    values = flat(FORMER) | flat({node: plain[node] for node in (*SHARED, "trainer")})
    ignored = {f"{node}.{key}" for node, keys in NO_EFFECT.items() for key in keys}
    return {key: value for key, value in values.items() if key in BUDGET or (key.split(".")[0] in SHARED and key not in ignored)}

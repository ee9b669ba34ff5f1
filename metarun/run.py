"""One run, from a composed configuration to a run directory."""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from metarun import results, tracking
from metarun.cl.reference import joint_scores
from metarun.config import ConfigError
from metarun.data import provenance
from metarun.parts import build_parts
from metarun.ranks import ALONE, Ranks
from metarun.signals import Interrupted
from metarun.tracking import RunFolder
from metarun.trainer import checkpoint
from metarun.trainer.evaluation import probe
from metarun.trainer.machine import keep_freed_memory
from metarun.trainer.state import Diverged, Pruned

log = logging.getLogger(__name__)


def run(config: DictConfig, choices: Mapping[str, str], path: Path, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Train and test as ``config`` says, in the run directory ``path``, and return the contents of results.json.

    Args:
        config: the composed configuration; its part `hydra` is not used.
        choices: the choice in each group, for the results.
        path: the run directory. An unfinished run in it is resumed.
        ranks: the processes that make the run together. Only the first one writes and gets all results.

    Raises:
        Busy: another process is running in this directory.
        ConfigError: a mistake in the configuration or in the data.
        Diverged: the training loss is not finite.
        Interrupted: a signal asked the run to stop.
        Pruned: a search asked the run to stop.
    """
    folder = RunFolder(path)
    with folder.claimed() if ranks.first else nullcontext():
        if config.restart and ranks.first:  # not before: another process may be at work on it
            folder.supersede()
        return train_and_test(config, choices, folder, ranks)


def train_and_test(config: DictConfig, choices: Mapping[str, str], folder: RunFolder, ranks: Ranks) -> dict[str, Any]:
    """What `run` does once the run directory is claimed."""
    source = tracking.source_digest(config)
    if ranks.first:
        check_checkpoint(folder, source, any_code=config.any_code)
        folder.stop.unlink(missing_ok=True)
    keep_freed_memory()
    with ranks.local_first():
        parts = build_parts(config, ranks)
    if ranks.first:
        folder.write_configuration(parts.config)
    log.info(results.opening_line(parts, choices, folder, ranks))

    known = results.before_training(choices, parts, source, ranks)
    reference = None
    if ranks.first:
        warn_of_overlap(known["tested"]["overlap"])
        if config.reference:
            reference = joint_scores(config.reference, parts.config, known, parts.stages)
    try:
        outcome = parts.trainer.fit(parts.algorithm, parts.stages, parts.method, folder, source, ranks)
    except (Diverged, Interrupted, Pruned) as stop:
        if ranks.first:
            status = {Diverged: "diverged", Interrupted: "interrupted", Pruned: "pruned"}[type(stop)]
            folder.write_results({**known, "status": status, "stopped": str(stop)})
        raise
    if not ranks.first:
        return known

    probes = probe(parts.algorithm, parts.stages[0].test, parts.trainer.test_tasks)
    findings = parts.algorithm.findings(probes)
    found = known | results.after_training(parts, outcome, findings, reference)
    results.save_outcome(folder, outcome, probes)
    results.write_events(choices, parts, outcome, findings, folder, found)
    folder.write_results(found)
    return found


def warn_of_overlap(overlap: Mapping[str, Any] | None) -> None:
    """Warn where the run is trained on some of its test images."""
    if overlap and overlap["images"]:
        log.warning("Not a test on unseen classes: %s", provenance.Overlap(**overlap))


def check_checkpoint(folder: RunFolder, source: str, *, any_code: bool) -> None:
    """Refuse to resume a run of other code, unless ``any_code``; replace a damaged checkpoint by the one before it.

    Raises:
        ConfigError: the checkpoint has another source digest, or both checkpoints are damaged.
    """
    try:
        found = checkpoint.repair(folder.last, folder.previous)
    except checkpoint.Damaged as error:
        raise ConfigError(f"{error}; restart=true starts over") from None
    if found is not None and found.get("source") != source and not any_code:
        raise ConfigError(
            f"{folder.path}: the code has changed since this unfinished run began;"
            " restart=true starts over, any_code=true resumes it all the same"
        )

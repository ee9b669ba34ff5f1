"""What a run reports: results.json, test.npz, pictures and TensorBoard's events."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf

from metarun import tracking
from metarun.algo.task_features import task_features
from metarun.cl.metrics import stream_metrics
from metarun.data import provenance
from metarun.files import SCHEMA, replacing
from metarun.metric import Metric
from metarun.parts import Parts
from metarun.ranks import ALONE, Ranks
from metarun.report import figures
from metarun.report.findings import Finding, Probes
from metarun.report.statistics import over_tasks
from metarun.tracking import Log, RunFolder
from metarun.trainer.examples import adaptation_examples
from metarun.trainer.headline import Headline, diverged
from metarun.trainer.state import Outcome

log = logging.getLogger(__name__)

Scores = NDArray[np.float64]


def opening_line(parts: Parts, choices: Mapping[str, str], folder: RunFolder, ranks: Ranks) -> str:
    """The line that a run logs when it starts."""
    weights = sum(w.numel() for w in parts.algorithm.parameters())
    where = str(parts.device) if parts.device.type != "cpu" else f"cpu, {parts.threads} thread{'s' * (parts.threads > 1)}"
    if ranks.size > 1:
        where = f"{ranks.size} processes, {where} each" if parts.device.type == "cpu" else f"{ranks.size} GPUs"
    stages = f" in {len(parts.stages)} stages" if len(parts.stages) > 1 else ""
    updates = f"{parts.trainer.iterations * len(parts.stages):,} updates of {parts.trainer.tasks} tasks"
    if not parts.algorithm.trains:
        updates = "nothing to train"
    return (
        f"{choices['algo']} on {choices['data']}{stages}: {choices['model']} with {weights:,} weights,"
        f" {updates}, {where}; {folder.path}"
    )


def before_training(choices: Mapping[str, str], parts: Parts, source: str, ranks: Ranks = ALONE) -> dict[str, Any]:
    """The part of results.json that is known before training."""
    algorithm, data = parts.algorithm, parts.data
    return {
        "schema": SCHEMA,
        **choices,
        "seed": parts.config.seed,
        "status": "finished",
        "budget": parts.budget,
        "task": {**asdict(data.spec), "kind": data.spec.kind.name},
        "metric": data.spec.kind.metric.record(),
        "validation": None,
        "test": None,
        "continual": None,
        "train": None,
        "protocol": {
            "ways": data.test.ways,
            "shots": data.test.shots,
            "queries": data.test.queries,
            "batch_norm": algorithm.batch_norm if algorithm.network.statistics.channels else None,
            "n_test_tasks": parts.trainer.test_tasks,
            "train": {
                "ways": data.train.ways,
                "shots": data.train.shots,
                "queries": data.train.queries,
                "tasks": parts.trainer.tasks,
            },
        },
        "environment": {
            "device": device_name(parts.device),
            "torch": str(torch.__version__),
            "metarun": version("metarun"),
            "git": tracking.git_commit(),
            "source": source,
            "threads": parts.threads,
            "ranks": ranks.size,
        },
        "task_features": task_features(data, parts.stages),
        "tested": provenance.record(data, parts.stages, parts.trainer.test_tasks),
    }


def device_name(device: torch.device) -> str:
    """`cpu`, or a GPU with its name."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def after_training(
    parts: Parts, outcome: Outcome, findings: Sequence[Finding], reference: Mapping[str, float] | None
) -> dict[str, Any]:
    """The part of results.json that is measured.

    Args:
        parts: of the run.
        outcome: what training and testing gave.
        findings: what the learner reports besides scores.
        reference: what `joint_scores` gave, if a reference run is configured.
    """
    metric, position = parts.data.spec.kind.metric, outcome.position
    best = position.best[0][1] if position.best and len(parts.stages) == 1 else None
    return {
        "validation": {metric.name: over_tasks(*outcome.validation)},
        "test": test_part(parts, outcome, metric, findings),
        "continual": continual_part(parts, outcome, metric, reference),
        "train": {
            "iterations": position.step,
            "seconds": round(position.seconds, 3),
            "tasks_per_second": round(position.step * parts.trainer.tasks / max(position.seconds, 1e-9), 1),
            "best_iteration": best,
            "n_nonfinite": position.nonfinite[0],
            "n_nonfinite_tasks": position.nonfinite[1],
            "resumed_at": position.resumed_at,
        },
    }


def test_part(parts: Parts, outcome: Outcome, metric: Metric, findings: Sequence[Finding]) -> dict[str, Any]:
    """`test` in results.json."""
    scores = dict(zip(outcome.stages, outcome.test, strict=True))
    test = tested(scores, metric, outcome.headline, outcome.look)
    first = parts.trainer.paper_tasks
    if first is not None and first < outcome.test[0].shape[1]:
        test["first_tasks"] = tested({name: of[:, :first] for name, of in scores.items()}, metric, outcome.headline, outcome.look)
    for finding in findings:
        test[finding.key] = finding.rows
    return test


def continual_part(parts: Parts, outcome: Outcome, metric: Metric, reference: Mapping[str, float] | None) -> dict[str, Any] | None:
    """`continual` in results.json; None for a run of one stage."""
    if not outcome.rows:
        return None
    R = np.array(outcome.rows, dtype=np.float64)
    if reference is not None and list(reference) != outcome.stages:
        path = parts.config.reference
        log.warning("reference=%s took the stages in another order, so intransigence is not measured", path)
        reference = None
    joint = None if reference is None else np.array(list(reference.values()))
    options: Any = OmegaConf.to_container(parts.config.cl, resolve=True)
    return {
        "R": R.tolist(),
        "stages": outcome.stages,
        "order": parts.trainer.order,
        **stream_metrics(R, higher_is_better=metric.higher_is_better, reference=joint),
        "online": online(outcome, metric),
        "scenario": parts.config.data.get("scenario"),
        "options": {**options, "reset_optimizer": parts.trainer.reset_optimizer},
    }


def online(outcome: Outcome, metric: Metric) -> dict[str, Any] | None:
    """For a stream without boundaries: the mean score of its rounds before their labels were seen, over all and by stage."""
    if outcome.rounds is None:
        return None
    scores, rounds = np.array(outcome.position.online), np.array(outcome.rounds)
    return {
        metric.name: float(scores.mean()),
        "by_stage": {name: float(scores[rounds == i].mean()) for i, name in enumerate(outcome.stages) if (rounds == i).any()},
        "rounds": len(rounds),
        "switches": int((np.diff(rounds) != 0).sum()),
        "boundaries": outcome.boundaries,
    }


def tested(stages: Mapping[str, Scores], metric: Metric, headline: Headline, look: int) -> dict[str, Any]:
    """Mean test scores of the stages, (eval steps, tasks) each: at step ``look``, and at each evaluated inner step."""
    found = [over_tasks(*scores) for scores in zip(*stages.values(), strict=True)]
    if headline.eval_steps is None:
        return {metric.name: found[look]}
    shown = ("mean", "ci95", "median", "n_nonfinite")
    by_step = zip(headline.eval_steps, found, strict=True)
    return {
        metric.name: found[look],
        "steps": {"n": headline.eval_steps[look], "chosen_by": headline.chosen_by},
        "diverged": diverged(stages, look, metric) if metric.heavy_tailed else None,
        "by_step": [{"step": step, **{key: row[key] for key in shown}} for step, row in by_step],
    }


def save_outcome(folder: RunFolder, outcome: Outcome, probes: Probes) -> None:
    """Save a run's test.npz: scores and ``probes``; for a stream without boundaries each round's score and stage, too."""
    rounds: dict[str, Any] = {}
    if outcome.rounds is not None:
        rounds = {"online": np.array(outcome.position.online), "rounds": np.array(outcome.rounds)}
    save_scores(folder, outcome.stages, outcome.test, **probes, **rounds)


def save_scores(folder: RunFolder, stages: list[str], test: list[Scores], **more: Any) -> None:
    """Save test.npz: `scores` (stages, eval steps, tasks), padded with NaN to the most tasks; the names in `stages`; ``more``."""
    scores = np.full((len(stages), len(test[0]), max(of.shape[1] for of in test)), np.nan)
    for place, of in zip(scores, test, strict=True):
        place[:, : of.shape[1]] = of
    with replacing(folder.path / "test.npz") as file:
        np.savez_compressed(file, scores=scores, stages=np.array(stages), **more)


def write_events(
    choices: Mapping[str, str],
    parts: Parts,
    outcome: Outcome,
    findings: Sequence[Finding],
    folder: RunFolder,
    results: Mapping[str, Any],
) -> None:
    """Log hyper-parameters and test scores for TensorBoard; draw the pictures, as PNG and for TensorBoard."""
    step = outcome.position.step
    events = Log(folder, step, tensorboard=parts.trainer.tensorboard)
    try:
        metric = parts.data.spec.kind.metric
        mean = results["test"][metric.name]["mean"]
        numbers = {f"test/{metric.name}": float("nan") if mean is None else mean}
        for key, value in (results["continual"] or {}).items():
            if isinstance(value, float):
                numbers[f"test/{key}"] = value
        events.scalars(step, numbers)
        plain: Any = OmegaConf.to_container(parts.config, resolve=True)
        keys = {k: v for k, v in tracking.flat(plain).items() if k not in ("restart", "any_code") and not k.endswith("_target_")}
        events.hparams({**choices, **keys}, numbers)
        if not parts.trainer.figures:
            return
        for finding in findings:
            if finding.embedding is not None:
                events.embedding(*finding.embedding, step)
        for name, picture in pictures(parts, outcome, findings, folder, results).items():
            path = folder.figures / f"{name}.png"
            figures.save(picture, path)
            events.picture(f"figures/{name}", path, step)
            figures.close(picture)
    finally:
        events.close()


def pictures(
    parts: Parts, outcome: Outcome, findings: Sequence[Finding], folder: RunFolder, results: Mapping[str, Any]
) -> dict[str, Any]:
    """A run's pictures by the names of their files."""
    metric, test = parts.data.spec.kind.metric, results["test"]
    drawn: dict[str, Any] = {"learning": figures.learning_curve(folder.metrics_path, metric)}
    if parts.algorithm.steps:
        drawn["adaptation"] = figures.adaptation_curve(test["by_step"], metric)
    if results["continual"]:
        R, names = results["continual"]["R"], results["continual"]["stages"]
        drawn["R"] = figures.stage_matrix(R, names, metric)
        if outcome.rounds is None:
            drawn["stages"] = figures.stage_curves(R, names, metric)
        else:
            drawn["online"] = figures.online(outcome.position.online, outcome.rounds, names, metric)
    drawn |= {finding.picture: finding.draw() for finding in findings}
    examples = adaptation_examples(parts.algorithm, parts.data, parts.device)
    if examples:
        drawn["fits"] = figures.fits(examples)
    return drawn

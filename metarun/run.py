"""One run, from a composed configuration to a run directory."""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from metarun import tracking
from metarun.algo.algorithm import Algorithm
from metarun.algo.by_length import lengths
from metarun.algo.task_features import task_features
from metarun.build import build
from metarun.cl.composite import CompositeMethod
from metarun.cl.method import ContinualMethod, check_declared
from metarun.cl.metrics import stream_metrics
from metarun.cl.reference import joint_scores
from metarun.config import ConfigError, check_own_keys
from metarun.data import provenance
from metarun.data.source import Data, Stage
from metarun.declared import locate
from metarun.episodes import TaskSpec
from metarun.files import SCHEMA, replacing
from metarun.metric import Metric
from metarun.model.network import Network, as_network
from metarun.ranks import ALONE, Ranks
from metarun.report import figures, vectors
from metarun.rng import derive
from metarun.signals import Interrupted
from metarun.tracking import Log, RunFolder
from metarun.trainer import checkpoint
from metarun.trainer.budget import Budget
from metarun.trainer.evaluation import probe, summary, work_of
from metarun.trainer.examples import adaptation_examples
from metarun.trainer.headline import Headline, diverged
from metarun.trainer.machine import choose_device, keep_freed_memory, make_deterministic, set_threads
from metarun.trainer.state import Diverged, Outcome, Pruned
from metarun.trainer.trainer import Trainer

log = logging.getLogger(__name__)

Scores = NDArray[np.float64]

PRESENTATIONS = 10
"""Of a class, in the figure of learners that read a stream (Santoro et al. 2016, table 1)."""


@dataclass
class Parts:
    """What a configuration is made into."""

    data: Data
    algorithm: Algorithm
    method: ContinualMethod
    trainer: Trainer
    device: torch.device
    threads: int
    stages: list[Stage]
    budget: dict[str, Any]
    """The budget's name, and the share of the protocol's updates that it makes."""
    config: DictConfig
    """The configuration that runs: default stages filled in, the budget's cuts made."""


def run(config: DictConfig, choices: Mapping[str, str], path: Path, ranks: Ranks = ALONE) -> dict[str, Any]:
    """Train and test what ``config`` says, in the run directory ``path`` → what results.json says.

    Args:
        config: composed, without Hydra's own part.
        choices: the choice in each group, for the results.
        path: of the run directory. An unfinished run in it is continued.
        ranks: the processes that make the run together. The first of them alone writes, and is given all results.

    Raises:
        Busy: another process is at work on it.
        ConfigError: a mistake in the configuration or in the data.
        Diverged: the training loss is not finite.
        Interrupted: a signal asked to stop.
        Pruned: a search asked to stop.
    """
    folder = RunFolder(path)
    with folder.claimed() if ranks.first else nullcontext():
        return train_and_test(config, choices, folder, ranks)


def train_and_test(config: DictConfig, choices: Mapping[str, str], folder: RunFolder, ranks: Ranks) -> dict[str, Any]:
    """What `run` does in a run directory that is its own."""
    source = tracking.source_digest(config)
    if ranks.first:
        check_checkpoint(folder, source, any_code=config.any_code)
        folder.stop.unlink(missing_ok=True)
    keep_freed_memory()
    with ranks.local_first():
        parts = build_parts(config, ranks)
    config = parts.config
    if ranks.first:
        folder.write_configuration(config)
    log.info(describe_run(parts, choices, folder, ranks))

    results = describe_results(config, choices, parts, source, ranks)
    reference = joint_scores(config.reference, config, results, parts.stages) if config.reference and ranks.first else None
    shared = results["tested"]["overlap"]
    if shared and shared["images"] and ranks.first:
        log.warning("Not a test on unseen classes: %s", provenance.Overlap(**shared))
    try:
        outcome = parts.trainer.fit(parts.algorithm, parts.stages, parts.method, folder, source, ranks)
    except (Diverged, Interrupted, Pruned) as stop:
        if not ranks.first:
            raise
        status = {Diverged: "diverged", Interrupted: "interrupted", Pruned: "pruned"}[type(stop)]
        folder.write_results({**results, "status": status, "stopped": str(stop)})
        raise
    if not ranks.first:
        return results
    probes = probe(parts.algorithm, parts.stages[0].test, parts.trainer.test_tasks)
    results |= measured(config, parts, outcome, probes, reference)
    online: dict[str, Any] = {}
    if outcome.rounds is not None:  # of a stream without boundaries the score of each round, and the stage it was of
        online = {"online": np.array(outcome.position.online), "rounds": np.array(outcome.rounds)}
    save_scores(folder, outcome.stages, outcome.test, **probes, **online)
    write_events(config, choices, parts, outcome, probes, folder, results)
    folder.write_results(results)
    return results


def build_parts(config: DictConfig, ranks: Ranks = ALONE) -> Parts:
    """Data, learner, continual method and trainer as configured, the learner's weights drawn from the seed.

    Raises:
        ConfigError: a key, a value or a combination that cannot work.
    """
    check_own_keys(config)
    seed: int = config.seed
    trainer: Trainer = build(config.trainer, seed, key="trainer", kind=Trainer)
    check_optimizer(trainer)
    make_deterministic(trainer.deterministic)
    device = choose_device(trainer.device, ranks)
    method = build_method(config.cl)
    config = with_stages(config, method)
    data: Data = build(config.data, seed, key="data", kind=Data)
    torch.manual_seed(derive(seed, "initialisation"))
    network = partial(make_network, config.model, data.spec)
    algorithm: Algorithm = build(config.algo, data.spec, network, key="algo", kind=Algorithm)
    if not any(True for _ in algorithm.parameters()):
        raise ConfigError("model: this network has no weights, and the algorithm none of its own: there is nothing to learn")
    if algorithm.trains and not any(w.requires_grad for w in algorithm.parameters()):
        raise ConfigError("model: all weights of this network were made with requires_grad=False: there is nothing to learn")
    algorithm.to(device)
    stages = data.stages(device)
    check_stages(config, stages, data, method)
    one = stages[0].train.sample(torch.arange(1))
    work = work_of(algorithm, one) * trainer.tasks
    protocol, budget = trainer.iterations, build(config.budget, key="budget", kind=Budget)
    if not budget.full:
        cut = {
            "iterations": budget.iterations(protocol, work * algorithm.passes(one) * len(stages)),
            "val_tasks": budget.tests(trainer.val_tasks),
            "test_tasks": budget.tests(trainer.test_tasks),
        }
        made = {"share": 1.0, "operations": None, "test_tasks": None}  # cut once: the same again would be cut no further
        config = OmegaConf.merge(config, {"trainer": cut, "budget": made})  # type: ignore[assignment]
        trainer = build(config.trainer, seed, key="trainer", kind=Trainer)
    part = {"name": budget.name, "share": trainer.iterations / max(protocol, 1)}
    threads = set_threads(trainer.threads, work // ranks.size)
    return Parts(data, algorithm, method, trainer, device, threads, stages, part, config)


def check_optimizer(trainer: Trainer) -> None:
    """Try the optimizer and the schedule on one weight, before any data are read.

    Raises:
        ConfigError: one of them is of another kind, or cannot make a step.
    """
    weight = nn.Parameter(torch.zeros(1))
    weight.grad = torch.zeros(1)
    key = "trainer.optimizer"
    try:
        optimizer = build(trainer.optimizer, [weight], key=key, kind=Optimizer)
        schedule = trainer.scheduler
        scheduler = build(schedule, optimizer, key="trainer.scheduler", kind=LRScheduler) if isinstance(schedule, Mapping) else None
        optimizer.step()
        key = "trainer.scheduler"
        if scheduler is not None:
            scheduler.step()
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{key}: {error}") from None  # as torch says it


def features_of(config: DictConfig) -> dict[str, float]:
    """The `task_features` that a run of this configuration would tell."""
    data = build_data(config, build_method(config.cl))
    return task_features(data, data.stages(torch.device("cpu")))


def build_data(config: DictConfig, method: ContinualMethod) -> Data:
    """The data configured; in stages, the default ones where none are named, if anything about the stream asks for them."""
    data: Data = build(with_stages(config, method).data, config.seed, key="data", kind=Data)
    return data


def wants_stages(config: DictConfig, method: ContinualMethod) -> str | None:
    """The key that makes no sense without stages, with its value; None: nothing asks for them."""
    if type(method) is not ContinualMethod:
        methods = method.methods if isinstance(method, CompositeMethod) else [method]
        return f"cl: {'+'.join(type(one).__name__ for one in methods)}"
    if config.trainer.switch is not None:
        return f"trainer.switch={config.trainer.switch}"
    return f"trainer.order={config.trainer.order}" if config.trainer.order != "given" else None


def check_stages(config: DictConfig, stages: list[Stage], data: Data, method: ContinualMethod) -> None:
    """Refuse what would run and report something else: work across stages on data that cannot be divided, stages of one name.

    Raises:
        ConfigError: the data have one stage and no key for more; or two of their stages have one name.
    """
    names = [stage.name for stage in stages]
    for name in set(names):
        if names.count(name) > 1:
            raise ConfigError(
                f"data={data.spec.name}: {names.count(name)} stages are called {name}; scores are kept by their names"
            )
    asked = wants_stages(config, method)
    if asked and len(stages) == 1 and "stages" not in config.data:
        raise ConfigError(
            f"{asked} needs stages, and data={data.spec.name} has one alone; choose data with the key data.stages (sine, omniglot,"
            " split_mnist, …) or data=sequence, or leave this key out"
        )


def build_method(node: DictConfig) -> ContinualMethod:
    """The method configured, together with those under its key `also`."""
    own: Any = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    others = own.pop("also", None) or {} if isinstance(own, dict) else {}
    if not isinstance(others, Mapping):
        raise ConfigError(f"cl.also={others}: expected methods by name, as cl=[ewc,replay] gives them")
    methods = {"cl": build(own, key="cl", kind=ContinualMethod)}
    for name, other in others.items():
        methods[f"cl.also.{name}"] = build(other, key=f"cl.also.{name}", kind=ContinualMethod)
    for method in methods.values():
        check_declared(method)
    return CompositeMethod(list(methods.values())) if len(methods) > 1 else methods["cl"]


def with_stages(config: DictConfig, method: ContinualMethod) -> DictConfig:
    """The configuration, with the data's default stages where something needs stages and it names none, but may."""
    if not wants_stages(config, method) or "stages" not in config.data or config.data.stages is not None:
        return config
    stages = locate(config.data._target_, Data, "data._target_").default_stages
    log.info("data.stages=%d: continual learning needs stages, and these are the data's default", stages)
    return OmegaConf.merge(config, {"data": {"stages": stages}})  # type: ignore[return-value]


def make_network(node: DictConfig, spec: TaskSpec, outputs: int | None, input_shape: tuple[int, ...] | None = None) -> Network:
    """The configured network for the tasks' inputs (or others); ``outputs`` None: an embedding without a head."""
    return as_network(build(node, input_shape or spec.input_shape, outputs, key="model", kind=nn.Module), head=outputs is not None)


def check_checkpoint(folder: RunFolder, source: str, *, any_code: bool) -> None:
    """Refuse to continue what other code began, unless ``any_code``. A damaged checkpoint is replaced by the one before it.

    Raises:
        ConfigError: the checkpoint's source digest is another one; or both checkpoints are damaged.
    """
    try:
        found = checkpoint.repair(folder.last, folder.previous)
    except checkpoint.Damaged as error:
        raise ConfigError(f"{error}; restart=true starts over") from None
    if found is not None and found.get("source") != source and not any_code:
        raise ConfigError(
            f"{folder.path}: this unfinished run was begun by other code than metarun's present one;"
            " restart=true starts over, any_code=true continues all the same"
        )


# What is said of a run -------------------------------------------------------------------------------------------------------


def describe_run(parts: Parts, choices: Mapping[str, str], folder: RunFolder, ranks: Ranks) -> str:
    """One line at the start."""
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


def describe_results(
    config: DictConfig, choices: Mapping[str, str], parts: Parts, source: str, ranks: Ranks = ALONE
) -> dict[str, Any]:
    """The part of results.json that is known before training."""
    algorithm, data = parts.algorithm, parts.data
    return {
        "schema": SCHEMA,
        **choices,
        "seed": config.seed,
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


def measured(
    config: DictConfig, parts: Parts, outcome: Outcome, probes: Mapping[str, Scores], reference: Mapping[str, float] | None
) -> dict[str, Any]:
    """The part of results.json that the run found out.

    ``probes`` is what the learner told of the test tasks beside their scores, ``reference`` what `joint_scores` gave.
    """
    metric, position = parts.data.spec.kind.metric, outcome.position
    scores = dict(zip(outcome.stages, outcome.test, strict=True))
    test = tested(scores, metric, outcome.headline, outcome.look)
    first = parts.trainer.paper_tasks
    if first is not None and first < outcome.test[0].shape[1]:
        test["first_tasks"] = tested({name: of[:, :first] for name, of in scores.items()}, metric, outcome.headline, outcome.look)
    if "by_presentation" in probes:
        shown = enumerate(map(summary, probes["by_presentation"].T[:PRESENTATIONS]), 1)
        test["by_presentation"] = [{"presentation": i, "mean": found["mean"], "ci95": found["ci95"]} for i, found in shown]
    if "by_length" in probes:
        spec = parts.data.spec
        passed = lengths(spec.outputs if spec.kind.classes else spec.parts)
        found_at = zip(passed, map(summary, probes["by_length"].T), strict=True)
        test["by_length"] = [{"length": n, "mean": found["mean"], "ci95": found["ci95"]} for n, found in found_at]
    if "task_vectors" in probes:
        test["task_vectors"] = vectors.recovered(probes["task_vectors"], true_parameters(parts.data.spec, probes))
    continual = None
    if outcome.rows:
        R = np.array(outcome.rows, dtype=np.float64)
        if reference is not None and list(reference) != outcome.stages:
            log.warning("reference=%s has taken the stages in another order: intransigence is not measured", config.reference)
            reference = None
        joint = None if reference is None else np.array(list(reference.values()))
        continual = {
            "R": R.tolist(),
            "stages": outcome.stages,
            "order": parts.trainer.order,
            **stream_metrics(R, higher_is_better=metric.higher_is_better, reference=joint),
            "online": online(outcome, metric),
            "scenario": config.data.get("scenario"),
            "options": {**OmegaConf.to_container(config.cl, resolve=True), "reset_optimizer": parts.trainer.reset_optimizer},  # type: ignore[dict-item]
        }
    best = position.best[0][1] if position.best and len(parts.stages) == 1 else None
    return {
        "validation": {metric.name: summary(*outcome.validation)},
        "test": test,
        "continual": continual,
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


def online(outcome: Outcome, metric: Metric) -> dict[str, Any] | None:
    """Of a stream without boundaries: the mean over its rounds of the score before labels were seen, in all and by stage."""
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
    """Test figures from the scores (looks, tasks) of each stage: at ``look``, and after each number of inner steps looked at."""
    found = [summary(*scores) for scores in zip(*stages.values(), strict=True)]
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


def true_parameters(spec: TaskSpec, probes: Mapping[str, Scores]) -> dict[str, Scores]:
    """Those of the test tasks' true parameters that vary, (tasks,) each."""
    told = {name: probes[name].ravel() for name in spec.parameters if name in probes}
    return {name: values for name, values in told.items() if np.ptp(values) > 0}


def save_scores(folder: RunFolder, stages: list[str], test: list[NDArray[np.float64]], **more: Any) -> None:
    """test.npz: `scores` (stages, looks, tasks), a look after each inner step of `test.by_step`; the `stages`; ``more``.

    A stage with fewer tasks than another is filled up with NaN.
    """
    scores = np.full((len(stages), len(test[0]), max(of.shape[1] for of in test)), np.nan)
    for place, of in zip(scores, test, strict=True):
        place[:, : of.shape[1]] = of
    with replacing(folder.path / "test.npz") as file:
        np.savez_compressed(file, scores=scores, stages=np.array(stages), **more)


def write_events(
    config: DictConfig,
    choices: Mapping[str, str],
    parts: Parts,
    outcome: Outcome,
    probes: Mapping[str, Scores],
    folder: RunFolder,
    results: Mapping[str, Any],
) -> None:
    """Hyper-parameters, test figures and pictures, for TensorBoard and as PNG."""
    events = Log(folder, outcome.position.step, tensorboard=parts.trainer.tensorboard)
    try:
        metric = parts.data.spec.kind.metric
        mean = results["test"][metric.name]["mean"]
        numbers = {f"test/{metric.name}": float("nan") if mean is None else mean}
        for key, value in (results["continual"] or {}).items():
            if isinstance(value, float):
                numbers[f"test/{key}"] = value
        events.scalars(outcome.position.step, numbers)
        plain: Any = OmegaConf.to_container(config, resolve=True)
        keys = {k: v for k, v in tracking.flat(plain).items() if k not in ("restart", "any_code") and not k.endswith("_target_")}
        events.hparams({**choices, **keys}, numbers)
        if parts.trainer.figures:
            pictures = {"learning": figures.learning_curve(folder.metrics_path, metric)}
            if parts.algorithm.steps:
                pictures["adaptation"] = figures.adaptation_curve(results["test"]["by_step"], metric)
            if results["continual"]:
                R, names = results["continual"]["R"], results["continual"]["stages"]
                pictures["R"] = figures.stage_matrix(R, names, metric)
                if outcome.rounds is None:
                    pictures["stages"] = figures.stage_curves(R, names, metric)
                else:
                    pictures["online"] = figures.online(outcome.position.online, outcome.rounds, names, metric)
            if "by_presentation" in results["test"]:
                pictures["presentations"] = figures.presentations(results["test"]["by_presentation"], parts.data.spec.outputs)
            if "by_length" in probes:
                pictures["lengths"] = figures.by_length(results["test"]["by_length"], metric)
            if "task_vectors" in probes:
                embedded, parameters = probes["task_vectors"], true_parameters(parts.data.spec, probes)
                pictures["tasks"] = figures.task_vectors(vectors.principal_components(embedded), parameters)
                events.embedding(embedded, parameters, outcome.position.step)
            examples = adaptation_examples(parts.algorithm, parts.data, parts.device)
            if examples:
                pictures["fits"] = figures.fits(examples)
            for name, picture in pictures.items():
                figures.save(picture, folder.figures / f"{name}.png")
                events.picture(f"figures/{name}", folder.figures / f"{name}.png", outcome.position.step)
                figures.close(picture)
    finally:
        events.close()

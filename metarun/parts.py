"""What a configuration is made into: data, learner, continual method and trainer. Used by `metarun.run` and `metarun.use`."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from metarun.algo.algorithm import Algorithm
from metarun.algo.task_features import task_features
from metarun.build import build
from metarun.cl.composite import CompositeMethod
from metarun.cl.method import ContinualMethod, check_declared
from metarun.config import ConfigError, check_own_keys
from metarun.data.source import Data, Stage
from metarun.declared import locate
from metarun.episodes import TaskSpec
from metarun.model.network import Network, as_network
from metarun.ranks import ALONE, Ranks
from metarun.rng import derive
from metarun.trainer.budget import Budget
from metarun.trainer.evaluation import work_of
from metarun.trainer.machine import choose_device, make_deterministic, set_threads
from metarun.trainer.trainer import Trainer

log = logging.getLogger(__name__)


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
    """The budget's name, and the share of the protocol's updates that it allows."""
    config: DictConfig
    """The configuration that runs, with default stages and within the budget."""


def build_parts(config: DictConfig, ranks: Ranks = ALONE) -> Parts:
    """Build everything that a run needs. The learner's initial weights depend on the seed alone.

    Raises:
        ConfigError: a key, a value or a combination that cannot work.
    """
    check_own_keys(config)
    trainer: Trainer = build(config.trainer, config.seed, key="trainer", kind=Trainer)
    check_optimizer(trainer)
    make_deterministic(trainer.deterministic)
    device = choose_device(trainer.device, ranks)
    method = build_method(config.cl)
    config = with_stages(config, method)
    data: Data = build(config.data, config.seed, key="data", kind=Data)
    algorithm = build_learner(config, data.spec)
    check_weights(algorithm)
    algorithm.to(device)
    stages = data.stages(device)
    check_stages(config, stages, data, method)
    one = stages[0].train.sample(torch.arange(1))
    work = work_of(algorithm, one) * trainer.tasks
    budget: Budget = build(config.budget, key="budget", kind=Budget)
    protocol = trainer.iterations
    if not budget.full:
        config = within(budget, config, trainer, work * algorithm.passes(one) * len(stages))
        trainer = build(config.trainer, config.seed, key="trainer", kind=Trainer)
    share = {"name": budget.name, "share": trainer.iterations / max(protocol, 1)}
    threads = set_threads(trainer.threads, work // ranks.size)
    return Parts(data, algorithm, method, trainer, device, threads, stages, share, config)


def within(budget: Budget, config: DictConfig, trainer: Trainer, work: float) -> DictConfig:
    """The configuration with updates and tasks cut to the budget; ``work``: operations of one update."""
    cut = {
        "iterations": budget.iterations(trainer.iterations, work),
        "val_tasks": budget.tests(trainer.val_tasks),
        "test_tasks": budget.tests(trainer.test_tasks),
    }
    spent = {"share": 1.0, "operations": None, "test_tasks": None}  # so that a run of this configuration is not cut again
    return OmegaConf.merge(config, {"trainer": cut, "budget": spent})  # type: ignore[return-value]


def build_learner(config: DictConfig, spec: TaskSpec) -> Algorithm:
    """The configured learner for tasks of ``spec``, its weights drawn from the seed."""
    torch.manual_seed(derive(config.seed, "initialisation"))
    algorithm: Algorithm = build(config.algo, spec, partial(make_network, config.model, spec), key="algo", kind=Algorithm)
    return algorithm


def check_weights(algorithm: Algorithm) -> None:
    """Raise a `ConfigError` where there is nothing to learn."""
    if not any(True for _ in algorithm.parameters()):
        raise ConfigError("model: this network has no weights, and the algorithm none of its own: there is nothing to learn")
    if algorithm.trains and not any(w.requires_grad for w in algorithm.parameters()):
        raise ConfigError("model: all weights of this network were made with requires_grad=False: there is nothing to learn")


def check_optimizer(trainer: Trainer) -> None:
    """Try the optimizer and the schedule on one weight, before any data are read.

    Raises:
        ConfigError: one of them is not an optimizer or a schedule, or fails to make a step.
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
        raise ConfigError(f"{key}: {error}") from None  # in torch's words


def features_of(config: DictConfig) -> dict[str, float]:
    """The `task_features` that a run of this configuration would record."""
    data = build_data(config, build_method(config.cl))
    return task_features(data, data.stages(torch.device("cpu")))


def build_data(config: DictConfig, method: ContinualMethod) -> Data:
    """The configured data, divided into their default number of stages where something needs stages and none are configured."""
    data: Data = build(with_stages(config, method).data, config.seed, key="data", kind=Data)
    return data


def wants_stages(config: DictConfig, method: ContinualMethod) -> str | None:
    """The key that needs stages, with its value; None: nothing does."""
    if type(method) is not ContinualMethod:
        methods = method.methods if isinstance(method, CompositeMethod) else [method]
        return f"cl: {'+'.join(type(one).__name__ for one in methods)}"
    if config.trainer.switch is not None:
        return f"trainer.switch={config.trainer.switch}"
    return f"trainer.order={config.trainer.order}" if config.trainer.order != "given" else None


def check_stages(config: DictConfig, stages: list[Stage], data: Data, method: ContinualMethod) -> None:
    """Refuse stages that would run and report something else than the configuration says.

    Raises:
        ConfigError: something needs stages and the data cannot be divided, or two stages have the same name.
    """
    names = [stage.name for stage in stages]
    for name in set(names):
        if names.count(name) > 1:
            raise ConfigError(f"data={data.spec.name}: {names.count(name)} stages are called {name}, but scores are stored by name")
    asked = wants_stages(config, method)
    if asked and len(stages) == 1 and "stages" not in config.data:
        raise ConfigError(
            f"{asked} needs stages, and data={data.spec.name} has only one; choose data with the key data.stages (sine, omniglot,"
            " split_mnist, …) or data=sequence, or leave this key out"
        )


def build_method(node: DictConfig) -> ContinualMethod:
    """The configured method, combined with those under its key `also`."""
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
    """The configuration, with the data's default number of stages where something needs stages and none are configured."""
    if not wants_stages(config, method) or "stages" not in config.data or config.data.stages is not None:
        return config
    stages = locate(config.data._target_, Data, "data._target_").default_stages
    log.info("data.stages=%d: continual learning needs stages, and these are the data's default", stages)
    return OmegaConf.merge(config, {"data": {"stages": stages}})  # type: ignore[return-value]


def make_network(node: DictConfig, spec: TaskSpec, outputs: int | None, input_shape: tuple[int, ...] | None = None) -> Network:
    """The configured network for inputs of ``input_shape`` (None: the tasks'); ``outputs`` None: an embedding without a head."""
    return as_network(build(node, input_shape or spec.input_shape, outputs, key="model", kind=nn.Module), head=outputs is not None)

"""The work that scripts/benchmark.py measures: metarun's implementation and those of scripts/peers.py."""

import io
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import peers
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor

from metarun.algo.algorithm import Algorithm
from metarun.algo.maml import MAML
from metarun.algo.protonet import ProtoNet
from metarun.algo.readers.cnp import CNP
from metarun.algo.reptile import Reptile
from metarun.algo.supervised import Supervised
from metarun.cl.fisher import fisher
from metarun.config import CONFIGS
from metarun.data.classes import Classes
from metarun.data.images import ImageTasks
from metarun.data.sine import Sine
from metarun.data.source import TaskShape, TaskSource
from metarun.episodes import Episodes, Examples, TaskSpec
from metarun.kinds import CLASSIFICATION, REGRESSION
from metarun.model.conv4 import Conv4
from metarun.model.mlp import MLP
from metarun.model.network import Network
from metarun.parts import build_parts
from metarun.tracking import RunFolder
from metarun.trainer.evaluation import evaluate
from metarun.trainer.feed import SAMPLED_VALUES

LIBRARIES = ("higher", "torchopt")
RATE = 0.01  # of inner steps
UPDATES = 500  # of a short training
Contenders = dict[str, Callable[[], Any]]
"""Functions, by name, that do the work once → gradients or scores, which must agree, or seconds if they time themselves."""


class Place(NamedTuple):
    """Device, number of tasks (None: that of the case) and type."""

    device: torch.device
    tasks: int | None = None
    dtype: torch.dtype = torch.float32


def missing() -> set[str]:
    """The libraries that are not installed."""
    return {name for name in LIBRARIES if find_spec(name) is None}


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# Tasks ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """The shape of the tasks, with the network to learn them."""

    data: str
    tasks: int
    ways: int
    """0: tasks of sine waves."""
    shots: int
    queries: int
    strided: bool = False

    @property
    def name(self) -> str:
        queries = "1 query" if self.queries == 1 else f"{self.queries} queries"
        task = f"{self.shots}-shot" if self.waves else f"{self.ways}-way {self.shots}-shot, {queries}"
        return f"{self.data}{' strided' * self.strided} {task}, {self.tasks} task{'s' * (self.tasks > 1)}"

    @property
    def waves(self) -> bool:
        """Whether tasks are sine waves instead of images."""
        return not self.ways

    @property
    def images(self) -> tuple[int, int, int, int, int]:
        """Number of classes, images per class, channels, height, width."""
        return (1000, 20, 1, 28, 28) if self.data == "Omniglot" else (64, 60, 3, 84, 84)

    def spec(self) -> TaskSpec:
        if self.waves:
            return TaskSpec(REGRESSION, (1,), 1, 1, self.data)
        return TaskSpec(CLASSIFICATION, self.images[2:], self.ways, self.ways, self.data)

    def network(self, outputs: int | None, input_shape: tuple[int, ...] | None = None) -> Network:
        if self.waves:
            return MLP((1,), outputs, widths=[40, 40])
        filters = 64 if self.data == "Omniglot" else 32
        return Conv4(self.images[2:], outputs, filters, halve="stride" if self.strided else "pool")

    def source(self, device: torch.device) -> TaskSource:
        """Sine tasks, or tasks of random images."""
        if self.waves:
            return Sine(0, shots=self.shots, queries=self.queries).stages(device)[0].train
        return ImageTasks(0, self.noise().to(device), Classes.of_sizes([self.images[1]] * self.images[0]), self.shape())

    def noise(self) -> Tensor:
        count, each, *size = self.images
        return torch.randint(0, 256, (count * each, *size), dtype=torch.uint8)

    def shape(self) -> TaskShape:
        return TaskShape(self.ways or None, self.shots, self.queries)

    def episodes(self, place: Place) -> Episodes:
        """Random tasks, as their content does not affect the time."""
        tasks = place.tasks or self.tasks

        def normal(*size: int) -> Tensor:
            return torch.randn(tasks, *size, device=place.device, dtype=place.dtype)

        def draw(n: int) -> Examples:
            if self.waves:
                return Examples(normal(n, 1), normal(n, 1))
            y = torch.arange(self.ways, device=place.device).repeat_interleave(n).expand(tasks, -1)
            return Examples(normal(self.ways * n, *self.images[2:]), y, self.ways)

        return Episodes(draw(self.shots), draw(self.queries))


class Given(TaskSource):
    """A source of given tasks."""

    def __init__(self, episodes: Episodes) -> None:
        self.episodes = episodes

    def sample(self, ids: Tensor) -> Episodes:
        return self.episodes.pick(ids.to(self.episodes.query.x.device))


# Learners ---------------------------------------------------------------------------------------------------------------------


def training(learner: Algorithm, episodes: Episodes, fills: Mapping[str, peers.Fill | None]) -> Contenders:
    """Complete updates with a learning rate of 0, so that the optimizer works but the weights stay the same for all."""
    weights = list(learner.parameters())
    optimizer = torch.optim.Adam(weights, 0.0, fused=True)

    def update(fill: peers.Fill) -> list[Tensor | None]:
        optimizer.zero_grad()
        fill(episodes)
        optimizer.step()
        return [w.grad for w in weights]

    return {name: partial(update, fill) for name, fill in fills.items() if fill}


def maml(shape: Shape, place: Place, steps: int = 1, first_order: bool = False) -> Contenders:
    learner = MAML(shape.spec(), shape.network, RATE, inner_steps=steps, first_order=first_order).to(place.device, place.dtype)
    net = learner.network
    here = set(LIBRARIES) - missing()
    fills = {
        "metarun": learner.backward,
        "higher": peers.higher_maml(net, RATE, steps, first_order) if "higher" in here else None,
        # TorchOpt's optimizers always keep the graph.
        "torchopt": peers.torchopt_maml(net, RATE, steps) if "torchopt" in here and not first_order else None,
        "loop": peers.loop_maml(net, RATE, steps, first_order),
    }
    return training(learner, shape.episodes(place), fills)


def variants(shape: Shape, place: Place, steps: int = 1) -> Contenders:
    """Variants of metarun's update: default chunks, a single chunk, and recomputed steps."""
    make = partial(MAML, shape.spec(), shape.network, RATE, inner_steps=steps)
    learners = {"metarun": make(), "one piece": make(task_chunk=shape.tasks), "recomputed": make(recompute=True)}
    made, episodes = {}, shape.episodes(place)
    for name, learner in learners.items():
        learner.load_state_dict(learners["metarun"].state_dict())
        learner.to(place.device, place.dtype)
        made[name] = training(learner, episodes, {name: learner.backward})[name]
    return made


def reptile(shape: Shape, place: Place, steps: int = 5) -> Contenders:
    learner = Reptile(shape.spec(), shape.network, RATE, inner_steps=steps, inner_batch=None, inner_optimizer="sgd")
    learner.to(place.device, place.dtype)
    fills = {"metarun": learner.backward, "loop": peers.loop_reptile(learner.network, RATE, steps)}
    return training(learner, shape.episodes(place), fills)


def protonet(shape: Shape, place: Place) -> Contenders:
    learner = ProtoNet(shape.spec(), shape.network).to(place.device, place.dtype)
    fills = {"metarun": learner.backward, "loop": peers.loop_protonet(learner.network)}
    return training(learner, shape.episodes(place), fills)


def metalearner(shape: Shape, place: Place) -> Contenders:
    learner = CNP(shape.spec(), shape.network).to(place.device, place.dtype)
    return training(learner, shape.episodes(place), {"metarun": learner.backward})


def evaluation(shape: Shape, place: Place, steps: int = 10) -> Contenders:
    learner = MAML(shape.spec(), shape.network, RATE, test_steps=steps).to(place.device, place.dtype)
    episodes = shape.episodes(place)
    return {
        "metarun": lambda: [torch.from_numpy(evaluate(learner, Given(episodes), len(episodes)))],
        "loop": lambda: [peers.loop_evaluation(learner.network, episodes, RATE, steps)],
    }


def of_fisher(tasks: int, place: Place, *, sampled: bool) -> Contenders:
    """Diagonal Fisher of an MLP on inputs of MNIST's shape."""
    count = place.tasks or tasks
    spec = TaskSpec(CLASSIFICATION, (1, 28, 28), 10, 10, "images", examples=True)
    learner = Supervised(spec, lambda outputs, shape=None: MLP((1, 28, 28), outputs, [400, 400])).to(place.device, place.dtype)
    x = torch.rand(count, 1, 1, 28, 28, device=place.device, dtype=place.dtype).flatten(2)
    of = Examples(x, torch.arange(count, device=place.device).unsqueeze(1) % 10, 10)
    episodes = Episodes(Examples(x[:, :0], of.y[:, :0], 10), of)
    return {
        "metarun": lambda: [*fisher(learner, Given(episodes), "sampled" if sampled else "true", count).values()],
        "loop": lambda: [*peers.loop_fisher(learner.network, episodes, sampled=sampled).values()],
    }


def sampling(shape: Shape, place: Place) -> Contenders:
    """Sampling the tasks of an update (small ones for many updates ahead, as in the trainer), compared with the update itself."""
    source, tasks = shape.source(place.device), place.tasks or shape.tasks
    one = source.sample(torch.arange(1))
    ahead = min(max(1, SAMPLED_VALUES // (tasks * (one.support.x.numel() + one.query.x.numel()))), 64)
    ready: list[Episodes] = []

    def sample() -> None:
        if not ready:
            ready.extend(source.sample(torch.arange(ahead * tasks)).split(tasks))
        ready.pop()

    if shape.waves:
        loop = partial(peers.loop_waves, tasks, shape.shots + shape.queries, place.device)
    else:
        images = shape.noise().to(place.device)
        loop = partial(peers.loop_images, images, shape.images[0], tasks, shape.ways, shape.shots, shape.queries)
    return {"metarun": sample, "loop": loop, "step": maml(shape, place)["metarun"]}


# The rest of a run ------------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A stream that pretends to be a terminal, so that the progress bar is drawn."""

    def isatty(self) -> bool:
        return True


def trainer(place: Place) -> Contenders:
    """Seconds per sine update in `Trainer.fit`, including all overhead, and in a bare loop of the same update."""

    def configuration(iterations: int, checkpoint_every: float = 30.0) -> DictConfig:
        keys = ["validate_every=null", "val_tasks=1", "test_tasks=1", "figures=false", f"device={place.device}"]
        keys += [f"iterations={iterations}", f"checkpoint_every={checkpoint_every}", f"threads={torch.get_num_threads()}"]
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            return compose("config", [f"trainer.{key}" for key in keys])

    def fit(iterations: int, checkpoint_every: float) -> tuple[float, float]:
        """Seconds per update without checkpoints, and of the whole call."""
        parts = build_parts(configuration(iterations, checkpoint_every))
        began = time.perf_counter()
        with TemporaryDirectory() as folder, redirect_stderr(Terminal()):
            outcome = parts.trainer.fit(parts.algorithm, parts.stages, parts.method, RunFolder(folder), "benchmark")
        return outcome.position.seconds / iterations, time.perf_counter() - began

    def around() -> float:
        checkpoint = (fit(50, 0.0)[1] - fit(50, 30.0)[1]) / 50
        return fit(UPDATES, 30.0)[0] * (1 + checkpoint / 30)

    def bare() -> float:
        parts = build_parts(configuration(1))
        source, learner, tasks = parts.stages[0].train, parts.algorithm, parts.trainer.tasks
        optimizer = torch.optim.Adam(learner.parameters(), fused=True)
        synchronize(place.device)
        began, ahead = time.perf_counter(), 50
        for first in range(0, UPDATES * tasks, ahead * tasks):
            for episodes in source.sample(torch.arange(first, first + ahead * tasks)).split(tasks):
                optimizer.zero_grad()
                learner.backward(episodes)
                optimizer.step()
        synchronize(place.device)
        return (time.perf_counter() - began) / UPDATES

    return {"metarun": around, "bare loop": bare}


def start(place: Place) -> Contenders:
    """Seconds from the start of the command to the first update of the default run, and of importing torch."""

    def first_update() -> float:
        with TemporaryDirectory() as folder:
            keys = ["trainer.iterations=1", "trainer.log_every=1", "trainer.val_tasks=1", "trainer.test_tasks=1"]
            keys += ["trainer.figures=false", f"trainer.device={place.device}", f"hydra.run.dir={folder}/run"]
            metrics, began = Path(folder, "run/metrics.jsonl"), time.perf_counter()
            nowhere = subprocess.DEVNULL
            with subprocess.Popen([sys.executable, "-m", "metarun", *keys], stdout=nowhere, stderr=nowhere) as process:
                while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
                    time.sleep(0.002)
                took = time.perf_counter() - began
            if process.returncode:
                sys.exit(f"metarun {' '.join(keys)}: exit status {process.returncode}")
            return took

    def imported() -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        return time.perf_counter() - began

    return {"metarun": first_update, "import torch": imported}

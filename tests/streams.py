"""A small stream of pictures, a learner and a trainer for it."""

from time import perf_counter

import pytest
import torch
from runs import composed

from metarun.algo.supervised import Supervised
from metarun.data.classes import Classes
from metarun.data.source import TaskShape
from metarun.data.stream import ImageStream
from metarun.model.mlp import MLP
from metarun.parts import build_method
from metarun.signals import Interrupted, Signals
from metarun.tracking import RunFolder
from metarun.trainer.draws import Draws
from metarun.trainer.trainer import Trainer

CPU = torch.device("cpu")
STAGES, WAYS, SIDE = 3, 2, 4


def stream(scenario: str = "task", sampling: str = "epochs", stages: int = STAGES) -> ImageStream:
    """Two classes a stage, 20 training images of each, which a bright place tells apart."""
    generator = torch.Generator().manual_seed(1)
    sizes, images = [], []
    for many in (20, 5, 10):  # training, validation, test
        for c in range(stages * WAYS):
            pictures = torch.randint(0, 120, (many, 1, SIDE, SIDE), generator=generator)
            pictures.flatten(1)[:, c % SIDE**2] += 100
            images.append(pictures.to(torch.uint8))
            sizes.append(many)
    of = [torch.arange(s * WAYS, (s + 1) * WAYS).numpy() for s in range(stages)]
    parts = {
        f"pair {s}": {split: c + k * stages * WAYS for k, split in enumerate(("train", "val", "test"))} for s, c in enumerate(of)
    }
    shape = TaskShape(WAYS, 1, 1)
    keys = {"scenario": scenario, "sampling": sampling}
    return ImageStream("pairs", 0, torch.cat(images), Classes.of_sizes(sizes), parts, shape, shape, **keys)


def learner(data: ImageStream, widths=(12, 8)) -> Supervised:
    torch.manual_seed(3)
    return Supervised(data.spec, lambda outputs, shape=None: MLP(shape or data.spec.input_shape, outputs, list(widths)))


def config(name: str, *keys: str):
    return composed(f"cl={name}", *keys).cl


def method(name: str, *keys: str):
    """As the command line makes it."""
    return build_method(config(name, *keys))


def train(path, data: ImageStream, method, *, iterations: int = 6, algorithm=None, signals=None, clock=perf_counter, **keys):
    """Through all stages → (outcome, learner)."""
    algorithm = algorithm or learner(data)
    adam = {"_target_": "torch.optim.Adam", "lr": 0.01}
    settings = {"iterations": iterations, "tasks": 8, "optimizer": adam, "validate_every": None, "tensorboard": False} | keys
    given = algorithm, data.stages(CPU), method, RunFolder(path), "tests"
    outcome = Trainer(0, **settings).fit(*given, signals=signals, clock=clock)
    return outcome, algorithm


def stopped_and_resumed(path, data, name, keys, update, patch, **settings):
    """Let a signal come in the middle of an update, then run the same again → (outcome, learner)."""
    made, signals = [], Signals()

    def reseed(draws, step, *purpose, own=Draws.reseed):
        made.append(purpose)
        if made.count(()) > update:
            signals.caught = 15
        own(draws, step, *purpose)

    with patch.context() as here:
        here.setattr(Draws, "reseed", reseed)
        with pytest.raises(Interrupted):
            train(path, data, method(name, *keys), signals=signals, **settings)
    return train(path, data, method(name, *keys), **settings)

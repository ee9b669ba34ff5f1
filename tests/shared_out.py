"""Short trainings in float64, made by one process or by several together: `python tests/shared_out.py FOLDER` is one of several."""

import os
import sys
from functools import partial
from pathlib import Path

import torch
from omegaconf import OmegaConf
from runs import composed

from metarun.build import build
from metarun.cli import joined
from metarun.config import CONFIGS
from metarun.data.classes import Classes
from metarun.data.images import ImageData
from metarun.data.sine import Sine
from metarun.data.source import Stage, TaskShape, TaskSource
from metarun.episodes import Episodes
from metarun.parts import build_method, make_network
from metarun.ranks import ALONE
from metarun.run import run
from metarun.tracking import RunFolder
from metarun.trainer.ranks import Lost
from metarun.trainer.trainer import Trainer

CPU = torch.device("cpu")
METHODS = ("agem", "der", "ewc", "ftml", "heads", "lwf", "progressive", "replay", "si")
"""What the others do to gradients and memories one of these does, too."""
SMALL = {"size": 4, "samples": 3, "inner_steps": 2, "test_steps": 1, "cg_steps": 1, "remembered": 2}
"""Keys of learners and methods that take time."""


class Double(TaskSource):
    """The same tasks in double precision."""

    def __init__(self, source: TaskSource) -> None:
        self.source, self.count = source, source.count

    def sample(self, ids: torch.Tensor) -> Episodes:
        def double(value):
            return value.double() if value.is_floating_point() else value

        found = self.source.sample(ids)
        support, query = (part._replace(x=double(part.x), y=double(part.y)) for part in (found.support, found.query))
        return Episodes(support, query, {name: double(value) for name, value in found.context.items()})

    def in_order(self) -> TaskSource:
        return Double(self.source.in_order())


def pictures() -> ImageData:
    """One stage of three classes in each split, eight pictures of each class."""
    generator = torch.Generator().manual_seed(1)
    shades = torch.arange(9).repeat_interleave(8).view(-1, 1, 1, 1) * 10
    images = (torch.randint(0, 60, (9 * 8, 1, 16, 16), generator=generator) + shades).to(torch.uint8)
    numbers = torch.arange(9).view(3, 3).numpy()
    parts = {"all": dict(zip(("train", "val", "test"), numbers, strict=True))}
    shape = TaskShape(2, shots=2, queries=1)
    return ImageData("pictures", 0, images, Classes.of_sizes([8] * 9), parts, shape, shape)


def made(algo: str, name: str, device=CPU):
    """Tasks in stages, and a learner of them; on the processor in double precision."""
    data = Sine(0, shots=4, train_shots=6, queries=2, stages=2) if name == "sine" else pictures()
    small = {"sine": ["data=sine", "model.widths=[6,5]"], "pictures": ["data=omniglot", "model.filters=2", "++model.halvings=2"]}
    config = composed(*f"algo={algo}".split(), *small[name])
    config.algo.update({key: value for key, value in SMALL.items() if key in config.algo})
    torch.manual_seed(0)
    learner = build(config.algo, data.spec, partial(make_network, config.model, data.spec), key="algo")
    if device != CPU:
        return data.stages(device), learner.to(device)
    return [Stage(stage.name, *map(Double, stage[1:])) for stage in data.stages(CPU)], learner.double()


CASES = {
    "maml": ("maml", "sine", "none", {"clip": 0.5, "clip_value": 0.1, "validate_every": 2, "keep_best": 2}),
    "protonet": ("protonet algo.batch_norm=running", "pictures", "none", {"validate_every": 3}),
    "mamlpp": ("mamlpp algo.batch_norm=running algo.task_chunk=1", "pictures", "none", {}),
    "reptile": ("reptile algo.inner_batch=4", "sine", "none", {}),
    "penalty": ("reptile algo.inner_batch=4", "sine", "ewc", {}),
    "stream": ("maml", "sine", "ewc", {"switch": 0.3, "detect": 0.01}),
    "order": ("fomaml", "sine", "none", {"order": "active"}),
    "several": ("maml", "sine", "replay+agem", {}),
} | {f"cl={name}": ("maml", "sine", name, {}) for name in METHODS}
"""By name: learner, data, continual method, keys of the trainer."""


def method(cl: str):
    """The continual method of this name, small."""
    first, *others = (OmegaConf.load(CONFIGS / "cl" / f"{name}.yaml") for name in cl.split("+"))
    for node in (first, *others):
        node.update({key: value for key, value in SMALL.items() if key in node})
    return build_method(OmegaConf.merge(first, {"also": dict(enumerate(others))}) if others else first)


def train(name: str, path: Path, ranks=ALONE):
    """Five tasks an update, so that no two processes have as many → what the run found."""
    algo, data, cl, keys = CASES[name]
    stages, learner = made(algo, data)
    sgd = {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.5}
    settings = {
        "iterations": 3,
        "tasks": 5,
        "optimizer": sgd,
        "val_tasks": 3,
        "test_tasks": 7,
        "validate_every": None,
        "tensorboard": False,
    }
    settings |= keys
    outcome = Trainer(0, **settings).fit(learner, stages, method(cl), RunFolder(path), "tests", ranks)
    scores = [torch.from_numpy(found) for found in (*outcome.test, *outcome.validation)]
    rows = torch.tensor([row for row in outcome.rows if row], dtype=torch.float64)
    online = torch.tensor(outcome.position.online, dtype=torch.float64)
    return {"weights": learner.state_dict(), "scores": scores, "rows": rows, "online": online, "order": outcome.position.order}


KEYS = (
    *("model={_target_: tests_net.Net}", "trainer.iterations=60", "trainer.tasks=5", "trainer.validate_every=20"),
    *("trainer.test_tasks=9", "trainer.val_tasks=7", "trainer.log_every=5", "trainer.figures=false", "trainer.threads=1"),
)
NET = """
import pathlib, time
from torch import nn

class Net(nn.Sequential):
    def __init__(self, input_shape, outputs, widths: object = None, init: object = None, std: object = None) -> None:
        super().__init__(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x):
        time.sleep(0 if pathlib.Path(__file__).with_name("fast").exists() else 0.01)  # so that a signal comes in time
        return super().forward(x)
"""


def whole_run(path: Path, ranks=ALONE):
    """A run by the command line's keys → its results, where this process is given them."""
    choices = {"algo": "a", "data": "d", "model": "m", "cl": "none"}
    return run(composed(*KEYS), choices, path, ranks)


def main(folder: Path) -> None:
    sys.path.append(str(folder))
    torch.set_num_threads(1)
    with joined() as ranks:
        whole_run(folder / "run", ranks)
        place = folder / f"rank {ranks.rank}"
        found = {name: train(name, place / name, ranks) for name in CASES}
        torch.manual_seed(1)
        for shared in (False, True):
            with ranks.independent_draws(CPU, shared=shared):
                drawn = torch.rand(3)
            found[f"draws {shared}"] = ranks.gather(drawn)
        found["after"] = ranks.gather(torch.rand(3))
        torch.save(found, folder / f"{ranks.rank}.pt")
        if ranks.rank:
            os._exit(0)  # without a word, as a process that is killed
        try:
            while True:
                ranks.all_reduce_max(1)
        except Lost as error:
            (folder / "lost").write_text(str(error))
        os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Whole data sets as stages, at one size and number of channels."""

import gzip
import json
import struct

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from runs import trained

from metarun.cl.method import ContinualMethod
from metarun.config import ConfigError
from metarun.data import mnist
from metarun.data.images import to_shape
from metarun.data.sequence import Sequence
from metarun.parts import check_stages

CPU = torch.device("cpu")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A small MNIST, which is quick to make, and a cache of its own."""
    monkeypatch.setenv("METARUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(mnist, "VALIDATION", 100)
    monkeypatch.setattr(mnist, "FILES", dict.fromkeys(mnist.FILES, ("", 400)))
    (tmp_path / "mnist").mkdir()
    for name in mnist.FILES:
        image = "images" in name
        header = struct.pack(">IIII", 2051, 400, 28, 28) if image else struct.pack(">II", 2049, 400)
        labels = np.tile(np.arange(10, dtype=np.uint8), 40)
        pixels = np.repeat(labels * 20, 784) if image else labels
        (tmp_path / "mnist" / name).write_bytes(gzip.compress(header + pixels.tobytes()))
    return str(tmp_path)


def test_images_are_brought_to_one_shape():
    grey = torch.rand(2, 1, 28, 28)
    assert torch.equal(to_shape(grey, (1, 28, 28)), grey)
    colour = to_shape(grey, (3, 32, 32))
    assert colour.shape == (2, 3, 32, 32)
    assert torch.equal(colour[:, 0], colour[:, 2])
    back = to_shape(torch.rand(2, 3, 32, 32), (1, 16, 16))
    assert back.shape == (2, 1, 16, 16)
    torch.testing.assert_close(to_shape(torch.full((1, 3, 84, 84), 0.3), (1, 28, 28)), torch.full((1, 1, 28, 28), 0.3))


def test_stages_follow_one_another(root):
    data = Sequence(0, of=("mnist", "mnist"), root=root, size=20, channels=3, ways=3, queries=4)
    stages = data.stages(CPU)
    assert [stage.name for stage in stages] == ["mnist", "mnist #2"]
    tasks = stages[0].train.sample(torch.arange(2))
    assert tasks.support.x.shape == (2, 3, 3, 20, 20)
    assert tasks.query.x.shape == (2, 12, 3, 20, 20)
    assert data.spec.input_shape == (3, 20, 20)
    again = data.stages(CPU)[0].train.sample(torch.arange(2))
    assert torch.equal(again.query.x, tasks.query.x)


def test_a_data_set_that_comes_again_has_a_name_and_tasks_of_its_own(root, tmp_path):
    options = {"mnist": {"stages": 2, "stage_by": "permutation"}}
    stages = Sequence(0, of=("mnist", "mnist", "mnist"), options=options, root=root, ways=3, queries=4).stages(CPU)
    names = ["permutation 1", "permutation 2"]
    assert [stage.name for stage in stages] == [*names, *(f"{name} #{times}" for times in (2, 3) for name in names)]
    for split in ("train", "test"):
        tasks = [getattr(stages[number], split).sample(torch.arange(3)) for number in (1, 3)]
        assert not torch.equal(tasks[0].support.x, tasks[1].support.x)
        pixels = [task.support.x.mean((0, 1)) > 0 for task in tasks]  # the same permutation of them
        assert torch.equal(*pixels)


def test_other_tasks_of_a_data_set_that_comes_again(root):
    data = Sequence(0, of=("mnist", "mnist"), root=root, ways=3, queries=4)
    data.redraw(1)
    tasks = [stage.test.sample(torch.arange(3)).support.x for stage in data.stages(CPU)]
    assert not torch.equal(*tasks)


def test_scores_of_a_data_set_that_comes_again_are_kept(root, tmp_path):
    of = ["algo=protonet", "data=sequence", "data.of=[mnist,mnist]", f"data.root={root}", "data.channels=1", "data.ways=3"]
    small = ["data.queries=4", "model.filters=2", "trainer.iterations=1", "trainer.tasks=1", "trainer.test_tasks=2"]
    off = ["trainer.val_tasks=1", "trainer.order=easy_first", "trainer.figures=false", "trainer.tensorboard=false"]
    found = trained(tmp_path / "run", *of, *small, *off)["continual"]
    names = {"mnist", "mnist #2"}
    assert set(found["stages"]) == names
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    row = next(line for line in lines if "stage/mnist" in line)
    logged = {key.removeprefix("stage/"): value for key, value in row.items() if key.startswith("stage/")}
    assert logged == dict(zip(found["stages"], found["R"][0], strict=True))
    assert {key.removeprefix("order/") for line in lines for key in line if key.startswith("order/")} == names


def test_stages_of_one_name_are_refused(root):
    data = Sequence(0, of=("mnist",), root=root, ways=3, queries=4)
    config = OmegaConf.create({"data": {"stages": 2}, "trainer": {"switch": None, "order": "given"}})
    with pytest.raises(ConfigError, match=r"^data=sequence: 2 stages are called mnist, but scores are stored by name$"):
        check_stages(config, data.stages(CPU) * 2, data, ContinualMethod())


def test_options_of_a_data_sets_own(root):
    options = {"mnist": {"stages": 2, "stage_by": "permutation"}}
    stages = Sequence(0, of=("mnist",), options=options, root=root, ways=3, queries=4).stages(CPU)
    assert [stage.name for stage in stages] == ["permutation 1", "permutation 2"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"of": ("omniglott",)}, r"data\.of=omniglott: no such data set; did you mean omniglot\?"),
        ({"of": ("sine",)}, r"data\.options\.sine\._target_=metarun\.data\.sine\.Sine: expected a subclass of ImageData"),
        ({"of": ()}, r"of=\[\]: expected names of data sets"),
        ({"options": {"cifarfs": {}}}, r"data\.options\.cifarfs: not among data\.of"),
        ({"options": {"mnist": {"colour": 1}}}, r"data\.options\.mnist\.colour: no such key"),
        ({"channels": 2}, "channels=2"),
    ],
)
def test_mistakes_are_named(root, keys, message):
    with pytest.raises(ConfigError, match=message):
        Sequence(0, **{"of": ("mnist",), "root": root, "queries": 4, **keys})


def test_omniglot_then_cifar_fs_at_one_size(tmp_path, data_root):
    """Grey and colour, 28 and 32 pixels: one learner goes through both."""
    keys = ["algo=protonet", "data=sequence", "data.queries=1", "cl=replay", "cl.size=2", "model.filters=4"]
    short = ["trainer.iterations=1", "trainer.tasks=1", "trainer.test_tasks=2", "trainer.val_tasks=1", "trainer.threads=1"]
    try:
        found = trained(tmp_path, *keys, *short, "trainer.figures=false", "trainer.tensorboard=false")
    except ConfigError as error:
        pytest.skip(f"no CIFAR-100: {error}")
    assert found["continual"]["stages"] == ["omniglot", "cifarfs"]
    assert len(found["continual"]["R"]) == 3

"""What a result records of its test tasks, on real images where they are there."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import composed

from metarun.build import build
from metarun.data.classes import Classes
from metarun.data.curves import CurveTasks
from metarun.data.images import ImageTasks
from metarun.data.mnist import permute
from metarun.data.provenance import FIRST, Overlap, digest, merged, overlap, record
from metarun.data.sine import wave
from metarun.data.source import Data, TaskShape, TaskSource
from metarun.episodes import Episodes, Examples

CPU = torch.device("cpu")
IMAGES = torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SHAPE = TaskShape(3, 1, 2)


def tasks(key=0, images=IMAGES, sizes=(5,) * 8, shape=SHAPE, **keys):
    return ImageTasks(key, images, Classes.of_sizes(sizes), shape, **keys)


def order(seed):
    return torch.from_numpy(np.random.default_rng(seed).permutation(16))


def test_equal_sources_have_equal_digests_however_they_are_made():
    assert digest([tasks()]) == digest([tasks()])
    # The same images elsewhere in a larger tensor, and numbers of classes in training, are no other tasks.
    moved = ImageTasks(0, torch.cat([IMAGES[:7], IMAGES]), Classes(torch.arange(8) * 5 + 7, torch.full((8,), 5)), SHAPE)
    assert digest([moved]) == digest([tasks(first_class=100)]) == digest([tasks()])
    same = partial(permute, order=order(1)), partial(permute, order=order(1))
    assert digest([tasks(view=same[0])]) == digest([tasks(view=same[1])])


@pytest.mark.parametrize(
    "other",
    [
        tasks(key=1),
        tasks(images=255 - IMAGES),
        tasks(sizes=(4,) * 8),
        tasks(shape=TaskShape(3, 2, 1)),
        tasks(shape=TaskShape(3, 1, 3)),
        tasks(shape=TaskShape(2, 1, 2)),
        tasks(view=partial(permute, order=order(1))),
        tasks(images=torch.cat([torch.rot90(IMAGES, k, (2, 3)) for k in range(4)]), turn=len(IMAGES)),
        tasks(groups=Classes.of_sizes([4, 4])),
    ],
)
def test_other_tasks_have_another_digest(other):
    assert digest([other]) != digest([tasks()])


def test_a_permutation_is_known_by_its_order():
    assert digest([tasks(view=partial(permute, order=order(1)))]) != digest([tasks(view=partial(permute, order=order(2)))])


def test_curves_are_told_apart_by_what_they_are_drawn_from():
    def made(key=0, shots=5, noise=0.0, **bounds):
        given = {"amplitude": (0.1, 5.0), "phase": (0.0, 3.0), "frequency": (1.0, 1.0), "x": (-5.0, 5.0), **bounds}
        return digest([CurveTasks(key, wave, given, noise, TaskShape(None, shots, 5), CPU)])

    others = [made(key=1), made(shots=6), made(noise=0.1), made(phase=(0.0, 3.1)), made(x=(-4.0, 5.0))]
    assert made() == made()
    assert len({made(), *others}) == 6


class Own(TaskSource):
    """A source that says nothing of itself."""

    def __init__(self, values):
        self.values = values

    def sample(self, ids):
        x = self.values[ids].view(-1, 1, 1)
        return Episodes(Examples(x, x), Examples(x, 2 * x))


def test_a_source_of_ones_own_is_known_by_its_tasks():
    values = torch.linspace(0, 1, 100)
    assert digest([Own(values)]) == digest([Own(values * (1 + 1e-7))])  # as devices may differ
    assert digest([Own(values)]) != digest([Own(values * 1.01)])
    late = values.clone()
    late[FIRST - 1] = 0.123
    assert digest([Own(values)]) != digest([Own(late)])


def test_images_are_counted_by_hand():
    test = {"a": [(0, 10), (10, 20), (20, 30), (0, 10)], "b": [(0, 4)]}  # one of them twice: turned
    assert overlap({"a": [(5, 12)], "c": [(0, 4)]}, test) == Overlap(images=7, of_images=34, classes=2, of_classes=4)
    assert overlap({"a": [[0, 1], [29, 40]]}, test) == Overlap(2, 34, 2, 4)
    assert merged({"a": [(20, 30), (0, 10), (10, 15)], "b": []}) == {"a": [(0, 15), (20, 30)], "b": []}


def data_of(*overrides) -> Data:
    config = composed(*overrides)
    return build(config.data, config.seed, key="data", kind=Data)


def recorded(*overrides, tasks=50, trained_on=None):
    data = data_of(*overrides)
    return record(data, data.stages(CPU), tasks, trained_on)


def there(name):
    roots = os.environ.get("METARUN_DATA", "").split(os.pathsep)
    return pytest.mark.skipif(not any((Path(root) / name).is_dir() for root in roots if root), reason=f"needs {name}")


@there("omniglot")
def test_splits_of_omniglot_share_characters_and_a_result_knows_it():
    vinyals, maml = recorded("data=omniglot"), recorded("data=omniglot", "data.split=maml")
    assert vinyals["digest"] != maml["digest"]
    assert vinyals["overlap"] == {"images": 0, "of_images": 423 * 20, "classes": 0, "of_classes": 423}
    crossed = recorded("data=omniglot", "data.split=maml", trained_on=vinyals["train"])
    assert crossed["overlap"] == {"images": 263 * 20, "of_images": 423 * 20, "classes": 263, "of_classes": 423}
    # Training in another shape leaves the test as it is; turned classes and grey pixels do not.
    assert recorded("data=omniglot", "data.train_ways=20", "data.train_queries=5")["digest"] == vinyals["digest"]
    for other in ("data.rotations=none", "data.resize=antialias", "data.queries=5", "seed=1"):
        assert recorded("data=omniglot", other)["digest"] != vinyals["digest"]


@there("mnist")
@pytest.mark.parametrize("name", ["split_mnist", "permuted_mnist", "rotated_mnist", "mnist"])
def test_no_shipped_test_of_digits_is_of_training_images_or_of_one_class(name):
    found = recorded(f"data={name}", "data.scenario=domain" if name == "split_mnist" else "seed=0")
    assert (found["classes"], found["overlap"]["images"], found["overlap"]["of_images"]) == (10, 0, 10_000)
    assert found["train"] == {"mnist": [[0, 55_000]]}


@there("mnist")
def test_another_seed_draws_other_tasks_of_the_same_stages():
    def digests(seed, *keys):
        data = data_of("data=permuted_mnist", "data.stages=3", *keys)
        data.redraw(seed)
        return [digest([stage.test]) for stage in data.stages(CPU)], data.views

    own, others = digests(0), digests(1)
    assert all(a != b for a, b in zip(own[0], others[0], strict=True))
    assert all(own[1][name].keywords["order"].equal(others[1][name].keywords["order"]) for name in own[1])

"""Tasks of images: augmentation on the device, by the task's own number."""

from typing import get_args

import numpy as np
import pytest
import torch

from metarun.data.classes import Classes
from metarun.data.images import ImageData, ImageTasks, Rotations, augment, quarter_turns
from metarun.data.source import TaskShape

SHAPE = TaskShape(3, 2, 2)


def tasks(**keys) -> ImageTasks:
    images = torch.randint(0, 256, (60, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageTasks(5, images, Classes(torch.arange(0, 60, 10), torch.full((6,), 10)), SHAPE, **keys)


def test_augmentation_shifts_and_mirrors_each_image_by_its_own_draw():
    images = torch.arange(1, 1 + 40 * 3 * 4 * 5).view(40, 3, 4, 5)
    draws = torch.randint(0, 2**31, (40,), generator=torch.Generator().manual_seed(1))
    out = augment(images, draws, 2, flip=True)
    assert out.shape == images.shape
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    seen = set()
    for image, mirrored, moved in zip(padded, padded.flip(-1), out, strict=True):
        found = [
            (flip, dy, dx)
            for flip, whole in ((False, image), (True, mirrored))
            for dy in range(5)
            for dx in range(5)
            if torch.equal(whole[:, dy : dy + 4, dx : dx + 5], moved)
        ]
        assert found
        seen |= set(found)
    assert {flip for flip, _, _ in seen} == {False, True}
    assert {dy for _, dy, _ in seen} == set(range(5))
    assert {dx for _, _, dx in seen} == set(range(5))


def test_augmented_tasks_are_the_same_alone_and_in_a_batch():
    source = tasks(crop=2, flip=True)
    batch = source.sample(torch.tensor([4, 900, 5]))
    assert torch.equal(source.sample(torch.tensor([900])).query.x[0], batch.query.x[1])
    plain = tasks().sample(torch.tensor([4, 900, 5]))
    assert not torch.equal(plain.query.x, batch.query.x)
    assert torch.equal(plain.context["classes"], batch.context["classes"])


def test_no_change_without_keys():
    images = torch.rand(5, 1, 4, 4)
    assert torch.equal(augment(images, torch.arange(5) << 12, 0, flip=False), images)


def test_quarter_turns():
    image = torch.tensor([[[[1, 2], [3, 4]]]])
    assert quarter_turns(image).flatten(1).tolist() == [[1, 2, 3, 4], [2, 4, 1, 3], [4, 3, 2, 1], [3, 1, 4, 2]]


@pytest.mark.parametrize("rotations", get_args(Rotations))
def test_a_test_within_groups_is_upright_whatever_turns_in_training(rotations):
    images = torch.randint(0, 256, (120, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    parts = {"all": {"train": np.arange(4), "val": np.arange(4, 6), "test": np.arange(6, 12)}}
    shape = TaskShape(2, 2, 2)
    data = ImageData("images", 0, images, Classes.of_sizes([10] * 12), parts, shape, shape, rotations=rotations, test_groups=[3, 3])
    upright = {image.numpy().tobytes() for image in images}

    def unturned(source):
        tasks = source.sample(torch.arange(50))
        shown = (torch.cat([tasks.support.x, tasks.query.x], 1).flatten(0, 1) * 255).round().byte()
        return np.mean([image.numpy().tobytes() in upright for image in shown])

    stage = data.stages(torch.device("cpu"))[0]
    assert unturned(stage.test) == 1
    assert (unturned(stage.train) == 1) == (rotations == "none")


def test_tasks_of_images_have_classes():
    with pytest.raises(ValueError, match="expected tasks with classes"):
        ImageTasks(0, torch.zeros(4, 1, 2, 2), Classes(torch.zeros(1), torch.ones(1)), TaskShape(None, 1, 1))

"""Tasks and streams from labelled examples of any shape, whose numbers say what they are."""

import numpy as np
import pytest
import torch

from metarun.config import ConfigError, RangeError
from metarun.data.classes import Classes, random_split
from metarun.data.labelled import LabelledData, standardised
from metarun.data.source import TaskShape
from metarun.data.stream import ClassStream

CPU = torch.device("cpu")
SHAPES = {"vectors": (3,), "sequences": (5, 2), "images": (1, 4, 4)}


def labelled(shape, classes=20, each=8, dtype=torch.float32):
    """Examples in random order; all numbers of one are 10 · label + its place in its class."""
    order = torch.randperm(classes * each, generator=torch.Generator().manual_seed(0))
    y = torch.arange(classes).repeat_interleave(each)
    x = (10 * y + torch.arange(each).repeat(classes)).view(-1, *[1] * len(shape)).expand(-1, *shape)
    return x[order].to(dtype), y[order]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_tasks_are_what_was_labelled(shape, dtype):
    data = LabelledData("own", 3, *labelled(shape, dtype=dtype), ways=3, shots=2, queries=4)
    assert data.spec.input_shape == shape
    (stage,) = data.stages(CPU)
    seen = {}
    for split, source, count in (("train", stage.train, 12), ("val", stage.val, 4), ("test", stage.test, 4)):
        tasks = source.sample(torch.arange(30))
        x = torch.cat([tasks.support.x.view(30, 3, 2, *shape), tasks.query.x.view(30, 3, 4, *shape)], 2)
        assert x.dtype == dtype
        numbers = x.flatten(3)
        assert (numbers == numbers[..., :1]).all()
        classes, places = numbers[..., 0].long() // 10, numbers[..., 0].long() % 10
        assert (classes == classes[..., :1]).all()  # class after class
        assert all(len(set(row)) == 6 for row in places.flatten(0, 1).tolist())  # no example twice
        assert all(len(set(row)) == 3 for row in classes[..., 0].tolist())
        assert torch.equal(tasks.query.y, torch.arange(3).repeat_interleave(4).expand(30, -1))
        seen[split] = set(classes.flatten().tolist())
        assert len(seen[split]) == count
    assert not seen["train"] & seen["val"]
    assert not seen["test"] & (seen["train"] | seen["val"])


def test_bytes_are_scaled_and_other_numbers_are_not():
    x, y = labelled((2,), classes=10)
    for dtype, factor in ((torch.uint8, 1 / 255), (torch.float32, 1.0)):
        data = LabelledData("own", 0, x.to(dtype), y, split=(0.4, 0.3, 0.3), ways=2, shots=1, queries=7)
        sources = data.stages(CPU)[0][1:]
        largest = max(float(source.sample(torch.arange(20)).query.x.max()) for source in sources)
        assert largest == pytest.approx(97 * factor)


def test_stages_divide_the_classes_and_number_those_of_training():
    data = LabelledData("own", 0, *labelled((2,), classes=30), ways=2, stages=3, shots=1, queries=2)
    stages = data.stages(CPU)
    classes = [{int(v) // 10 for v in stage.train.sample(torch.arange(60)).support.x.flatten()} for stage in stages]
    numbers = [set(stage.train.sample(torch.arange(60)).context["classes"].flatten().tolist()) for stage in stages]
    assert [len(of) for of in classes] == [6, 6, 6]
    assert len(set.union(*classes)) == 18 == data.spec.train_classes
    assert numbers == [set(range(6)), set(range(6, 12)), set(range(12, 18))]


def test_features_are_standardised_by_the_training_classes():
    x, y = labelled((2,))
    x = torch.cat([x, torch.full((len(x), 1), 4.0)], 1)  # a constant feature
    data = LabelledData("own", 0, x, y, standardise=True, ways=2, queries=2)
    training = data.splits["train"]
    known = torch.cat([data.examples[a : a + n] for a, n in zip(training.start.tolist(), training.size.tolist(), strict=True)])
    torch.testing.assert_close(known.mean(0), torch.zeros(3), rtol=0, atol=1e-6)
    torch.testing.assert_close(known.std(0, correction=0), torch.tensor([1.0, 1.0, 0.0]))
    assert not torch.allclose(data.examples.mean(0)[:2], torch.zeros(2), atol=1e-3)  # not by all classes
    by_hand = standardised(torch.tensor([[1.0], [3.0], [9.0]]), Classes.of_sizes([2, 1]).some(np.array([0])))
    assert by_hand.flatten().tolist() == [-1, 1, 7]


def test_splits_are_shares_of_the_classes_and_drawn_by_their_seed():
    parts = random_split(10, (0.5, 0.2, 0.3), 0)
    assert [len(of) for of in parts.values()] == [5, 2, 3]
    assert sorted(np.concatenate(list(parts.values()))) == list(range(10))
    assert parts["train"].tolist() != random_split(10, (0.5, 0.2, 0.3), 1)["train"].tolist()
    with pytest.raises(RangeError, match=r"split=\[0\.5, 0\.2, 0\.2\]: expected three shares that sum to 1"):
        random_split(10, (0.5, 0.2, 0.2), 0)


def test_examples_are_numbered_within_equal_data_alone():
    x, y = labelled((2,))
    one, same, other = (LabelledData("own", 0, part, y, ways=2, queries=2).members("test") for part in (x, x.clone(), x + 1))
    assert one == same
    assert not one.keys() & other.keys()


def test_mistakes_are_named():
    x, y = labelled((2,))
    with pytest.raises(ConfigError, match="data=own: expected one label per example, found 160 examples and 159 labels"):
        LabelledData("own", 0, x, y[1:])
    x[7, 1] = torch.nan
    with pytest.raises(ConfigError, match="data=own: expected finite values, found another in example 7"):
        LabelledData("own", 0, x, y)
    with pytest.raises(RangeError, match="at most the 8 examples of a class in the train split"):
        LabelledData("own", 0, *labelled((2,)), ways=2, shots=4, queries=5)


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_vectors_are_a_stream_too(scenario):
    x = torch.arange(4.0).repeat_interleave(6).unsqueeze(1).expand(-1, 3)
    parts = {f"part {i}": dict.fromkeys(("train", "val", "test"), np.array([2 * i, 2 * i + 1])) for i in range(2)}
    shape = TaskShape(2, 1, 1)
    data = ClassStream("own", 0, x, Classes.of_sizes([6] * 4), parts, shape, shape, scenario=scenario)
    for i, stage in enumerate(data.stages(CPU)):
        examples = stage.train.sample(torch.arange(12))
        assert examples.support.x.shape == (12, 0, 3)
        classes = examples.query.x[:, 0, 0].long()
        assert classes.bincount(minlength=4).tolist() == [6 * (c // 2 == i) for c in range(4)]
        assert torch.equal(examples.query.y[:, 0], classes - 2 * i if scenario == "domain" else classes)
        assert ("active" in examples.context) == (scenario == "task")

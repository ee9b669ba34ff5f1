"""Sine tasks follow the paper's distribution and their own numbers."""

import math

import pytest
import torch

from metarun.config import ConfigError
from metarun.data.sine import Sine

CPU = torch.device("cpu")


def test_tasks_are_the_waves_that_the_context_tells():
    source = Sine(0).stages(CPU)[0].train
    tasks = source.sample(torch.arange(1000))
    for part in (tasks.support, tasks.query):
        assert part.x.shape == part.y.shape == (1000, 10, 1)
        amplitude, phase = tasks.context["amplitude"].unsqueeze(1), tasks.context["phase"].unsqueeze(1)
        torch.testing.assert_close(part.y, amplitude * torch.sin(part.x - phase))
        assert -5 <= part.x.min() < -4.9 < 4.9 < part.x.max() <= 5
    assert 0.1 <= tasks.context["amplitude"].min() < 0.2
    assert 4.9 < tasks.context["amplitude"].max() <= 5
    assert tasks.context["phase"].max() <= math.pi + 1e-6


def test_task_i_is_the_same_alone_in_a_batch_and_for_any_device_of_its_number():
    source = Sine(3).stages(CPU)[0].test
    batch = source.sample(torch.tensor([5, 99, 7]))
    assert torch.equal(source.sample(torch.tensor([99])).query.y[0], batch.query.y[1])


def test_splits_seeds_and_stages_have_their_own_tasks():
    first = {s: getattr(Sine(0).stages(CPU)[0], s).sample(torch.arange(3)).support.x for s in ("train", "val", "test")}
    assert not torch.equal(first["train"], first["val"])
    assert not torch.equal(first["val"], first["test"])
    assert not torch.equal(first["train"], Sine(1).stages(CPU)[0].train.sample(torch.arange(3)).support.x)


def test_shots_of_training_and_test_may_differ():
    stage = Sine(0, shots=5, queries=7, train_shots=10).stages(CPU)[0]
    tasks = stage.train.sample(torch.arange(2))
    assert tasks.support.x.shape == (2, 10, 1)
    assert tasks.query.x.shape == (2, 7, 1)
    assert stage.test.sample(torch.arange(2)).support.x.shape == (2, 5, 1)


def test_stages_divide_the_phases():
    stages = Sine(0, stages=4).stages(CPU)
    assert [s.name for s in stages] == ["phase 0.00-0.79", "phase 0.79-1.57", "phase 1.57-2.36", "phase 2.36-3.14"]
    for i, stage in enumerate(stages):
        phase = stage.train.sample(torch.arange(500)).context["phase"]
        assert i * math.pi / 4 <= phase.min()
        assert phase.max() <= (i + 1) * math.pi / 4 + 1e-6


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"amplitude": (5.0, 0.1)}, "amplitude=.*lower bound"),
        ({"shots": 0}, "shots=0: expected 1 or more"),
        ({"train_queries": -1}, "train_queries=-1"),
        ({"stages": 0}, "stages=0"),
    ],
)
def test_mistakes_are_named(keys, message):
    with pytest.raises(ConfigError, match=message):
        Sine(0, **keys)

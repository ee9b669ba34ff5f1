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


def test_narrow_stages_have_names_of_their_own():
    stages = Sine(0, phase=(1.0, 1.01), stages=3).stages(CPU)
    assert [s.name for s in stages] == ["phase 1.00-1.00", "phase 1.00-1.01", "phase 1.01-1.01"]
    stages = Sine(0, phase=(1.0, 1.004), stages=3).stages(CPU)
    assert [s.name for s in stages] == ["phase 1.00-1.00", "phase 1.00-1.00 #2", "phase 1.00-1.00 #3"]


def test_stages_divide_the_phases():
    stages = Sine(0, stages=4).stages(CPU)
    assert [s.name for s in stages] == ["phase 0.00-0.79", "phase 0.79-1.57", "phase 1.57-2.36", "phase 2.36-3.14"]
    for i, stage in enumerate(stages):
        phase = stage.train.sample(torch.arange(500)).context["phase"]
        assert i * math.pi / 4 <= phase.min()
        assert phase.max() <= (i + 1) * math.pi / 4 + 1e-6


def test_variants_follow_their_keys():
    data = Sine(0, frequency=(0.5, 2.0), noise=0.3, test_x=(5.0, 10.0), test_amplitude=(5.0, 6.0), queries=200)
    stage = data.stages(CPU)[0]
    tasks = stage.train.sample(torch.arange(400))
    truth = {name: value.unsqueeze(1) for name, value in tasks.context.items()}
    assert 0.5 <= truth["frequency"].min() < 0.55
    assert 1.9 < truth["frequency"].max() <= 2.0
    clean = truth["amplitude"] * torch.sin(truth["frequency"] * tasks.query.x - truth["phase"])
    residual = tasks.query.y - clean
    assert residual.std().item() == pytest.approx(0.3, rel=0.02)
    assert abs(residual.mean().item()) < 0.01
    outside = stage.test.sample(torch.arange(50))
    assert outside.query.x.min() >= 5
    assert outside.context["amplitude"].min() >= 5
    assert stage.val.sample(torch.arange(50)).query.x.max() <= 5


@pytest.mark.parametrize("stage_by", ["amplitude", "x"])
def test_stages_divide_what_they_are_told(stage_by):
    bounds = {"amplitude": (0.1, 5.0), "x": (-5.0, 5.0)}[stage_by]
    width = (bounds[1] - bounds[0]) / 3
    for i, stage in enumerate(Sine(0, stages=3, stage_by=stage_by).stages(CPU)):
        tasks = stage.test.sample(torch.arange(200))
        values = tasks.query.x if stage_by == "x" else tasks.context[stage_by]
        assert bounds[0] + i * width - 1e-5 <= values.min()
        assert values.max() <= bounds[0] + (i + 1) * width + 1e-5


def test_a_curve_to_draw_is_one_wave_whatever_the_shots():
    few, many = (Sine(0).curve(shots, CPU) for shots in (5, 20))
    assert torch.equal(few.query.y, many.query.y)
    assert torch.equal(few.support.x, many.support.x[:, :5])
    assert few.query.x.flatten().diff().min() > 0


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"amplitude": (5.0, 0.1)}, "amplitude=.*lower bound"),
        ({"shots": 0}, "shots=0: expected 1 or more"),
        ({"train_queries": -1}, "train_queries=-1"),
        ({"stages": 0}, "stages=0"),
        ({"noise": -0.1}, "noise=-0.1"),
        ({"stages": 2, "stage_by": "frequency"}, "stage_by=frequency: expected a quantity that varies"),
        ({"stages": 2, "test_phase": (0.0, 1.0)}, "test_phase=.*null, as stages divide its range"),
        ({"test_x": (2.0, 1.0)}, "test_x=.*lower bound"),
    ],
)
def test_mistakes_are_named(keys, message):
    with pytest.raises(ConfigError, match=message):
        Sine(0, **keys)

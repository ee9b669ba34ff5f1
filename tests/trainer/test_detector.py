"""Boundaries that nobody announces."""

import numpy as np
import pytest
import torch
from streams import CPU, stream

from metarun.cl.memory import Memory
from metarun.trainer.detector import BoundaryDetector, Remembered


def test_a_jump_is_a_boundary():
    detector, data = BoundaryDetector(4.0), stream("class").stages(CPU)
    random = np.random.default_rng(0)
    for step in range(100):
        if step == 60:
            break
        loss = 1 + 0.1 * random.standard_normal()
        assert detector.detect(step, loss) is None
        detector.observe(data[0].train.sample(torch.arange(2) + 2 * step), loss)
    ended = detector.detect(60, 2.0)
    assert ended.name == "before round 61"
    assert detector.steps == [60]
    tasks = ended.train.sample(torch.arange(ended.train.count + 1))
    assert ended.train.count == 120
    assert torch.equal(tasks.query.x[0], tasks.query.x[-1])
    assert set(tasks.query.y.flatten().tolist()) == {0, 1}
    assert detector.detect(61, 9.0) is None  # it has to learn what is usual first


def test_a_jump_is_measured_by_a_running_mean_and_variance():
    """As a plain loop has them; a boundary needs 20 rounds, and more than so many deviations."""
    detector, tasks = BoundaryDetector(2.0), stream("class").stages(CPU)[0].train
    losses = [float(value) for value in np.random.default_rng(1).uniform(0, 1, 25)]
    for restart in range(2):
        mean = variance = 0.0
        for number, loss in enumerate(losses, 1):
            least = mean + 2 * variance**0.5
            if number <= 20:
                assert detector.detect(number, 1e9) is None
            else:
                assert detector.detect(number, least - 1e-9) is None
            share = max(0.05, 1 / number)
            excess = loss - mean
            mean, variance = mean + share * excess, (1 - share) * (variance + share * excess**2)
            detector.observe(tasks.sample(torch.arange(3) + 3 * number), loss)
            assert (detector.rounds, detector.mean, detector.variance) == pytest.approx((number, mean, variance))
        ended = detector.detect(100 + restart, mean + 2 * variance**0.5 + 1e-9)
        assert ended.name == f"before round {101 + restart}"
        assert ended.train is ended.val is ended.test
        assert ended.train.count == 75
        assert detector.steps == [100 + i for i in range(restart + 1)]
        assert (detector.rounds, detector.mean, detector.variance, len(detector.memory)) == (0, 0.0, 0.0, 0)
        ids = torch.tensor([0, 74, 75, 76, 5])
        x = ended.train.sample(ids).query.x
        assert torch.equal(x, ended.train.kept.query.x[ids % 75])
        assert not torch.equal(x[0], x[1])


def test_a_boundary_needs_twenty_rounds_since_the_last():
    detector, tasks = BoundaryDetector(2.0), stream("class").stages(CPU)[0].train
    for number in range(20):
        assert detector.detect(number, 1e9) is None
        detector.observe(tasks.sample(torch.arange(1)), 1.0)
    assert detector.detect(20, 1.0) is None  # as usual, though nothing has varied
    assert detector.detect(20, 1.1).name == "before round 21"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_no_boundary_and_leaves_the_mean_alone(bad):
    detector, tasks = BoundaryDetector(2.0), stream("class").stages(CPU)[0].train
    for number in range(25):
        detector.observe(tasks.sample(torch.arange(1)), 1.0)
        assert detector.detect(number, bad) is None
    detector.observe(tasks.sample(torch.arange(1)), bad)
    assert (detector.rounds, detector.mean, detector.variance, len(detector.memory)) == (25, 1.0, 0.0, 26)
    assert detector.detect(25, 1.1).name == "before round 26"


def test_an_empty_memory_stands_for_no_stage():
    with pytest.raises(ValueError, match=r"^the memory is empty$"):
        Remembered(Memory())


def test_what_guessing_boundaries_remembers_is_restored():
    detector, tasks = BoundaryDetector(2.0), stream("class").stages(CPU)[0].train
    detector.observe(tasks.sample(torch.arange(3)), 0.5)
    detector.observe(tasks.sample(torch.arange(3, 6)), 0.9)
    detector.steps.append(7)
    again = BoundaryDetector(2.0)
    again.load_state_dict(detector.state_dict(), CPU)
    assert (again.steps, again.rounds, again.mean, again.variance) == ([7], 2, detector.mean, detector.variance)
    assert again.variance > 0
    assert len(again.memory) == 6
    assert torch.equal(again.memory.stored.query.x, detector.memory.stored.query.x)
    again.load_state_dict(detector.state_dict(), torch.device("meta"))
    assert again.memory.stored.query.x.device.type == "meta"

"""Selection of weights, checkpoints by the clock, and signals that stop a run."""

from contextlib import suppress
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from metarun.ranks import ALONE, Ranks
from metarun.rng import derive
from metarun.signals import Interrupted, Signals
from metarun.trainer.best import BestWeights
from metarun.trainer.draws import Draws
from metarun.trainer.state import Position
from metarun.trainer.stopping import Stopping


def offered(keep, *scores):
    position, learner = Position(), nn.Linear(1, 1, bias=False)
    best = BestWeights(keep, position)
    for step, score in enumerate(scores, 1):
        position.step = step
        nn.init.constant_(learner.weight, step)
        best.offer(learner, score)
    return best


@pytest.mark.parametrize(
    ("keep", "scores", "steps"),
    [
        (1, (1.0, 3.0, 2.0), [2]),
        (1, (3.0, 3.0), [1]),  # of equals the earlier
        (2, (1.0, 3.0, 2.0), [2, 3]),
        (2, (2.0, 1.0, 2.0), [1, 3]),
        (3, (-2.0, -1.0), [2, 1]),
        (0, (1.0,), []),
    ],
)
def test_the_best_are_kept_best_first(keep, scores, steps):
    best = offered(keep, *scores)
    assert best.steps == steps
    assert best.position.best == [(scores[step - 1], step) for step in steps]
    assert [float(state["weight"]) for state in best.states] == steps  # copies, whatever the weights became


def test_a_new_stage_forgets_them():
    best = offered(2, 1.0, 2.0)
    best.clear()
    assert (best.steps, best.states, best.position.best) == ([], [], [])


class Others(Ranks):
    """Two processes, the other of which says 12 and that a checkpoint is due."""

    def all_reduce_max(self, *values):
        return tuple(max(value, other) for value, other in zip(values, (12, 1), strict=False))


def stopping(ranks, caught=None):
    signals = Signals()
    signals.caught = caught
    return Stopping(signals, ranks, SimpleNamespace(position=Position(step=3), total=8))


def test_a_signal_stops_all_processes():
    assert stopping(ALONE).caught(False) == (0, False)
    assert stopping(ALONE, 15).caught(True) == (15, True)
    assert stopping(Others(0, 2)).caught(False) == (12, True)
    for end in (stopping(ALONE).check, partial(stopping(ALONE, 15).stop, 0)):
        with suppress(Interrupted):
            end()
            continue
        pytest.fail("stopped without a signal")
    for of, number in ((stopping(ALONE, 15), 15), (stopping(Others(0, 2)), 12)):
        with pytest.raises(Interrupted, match=r"^stopped at update 3 of 8$") as caught:
            of.check()
        assert caught.value.number == number


def test_draws_are_those_of_seed_step_and_purpose():
    drawn = {}
    for seed in (0, 1):
        for at in ((0,), (1,), (1, "start"), (1, "end")):
            Draws(seed, torch.device("cpu")).reseed(*at)
            drawn[seed, at] = float(torch.rand(()))
            torch.rand(7)
    assert len(set(drawn.values())) == len(drawn) == 8
    assert drawn[1, (1, "end")] == float(torch.rand((), generator=torch.Generator().manual_seed(derive(1, "torch", 1, "end"))))
    Draws(1, torch.device("cpu")).reseed(1, "end")
    assert float(torch.rand(())) == drawn[1, (1, "end")]


@pytest.mark.parametrize(("device", "seeded"), [("cpu", []), ("cuda", [derive(3, "torch", 5)])])
def test_a_gpu_is_seeded_alike(device, seeded, monkeypatch):
    seeds = []
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)
    Draws(3, torch.device(device)).reseed(5)
    assert seeds == seeded

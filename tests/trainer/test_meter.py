"""What is summed, timed, logged and shown of training."""

import logging
from types import SimpleNamespace

import pytest
import torch
from torch import tensor

from metarun.ranks import ALONE, Ranks
from metarun.trainer import meter as module
from metarun.trainer.losses import Losses
from metarun.trainer.meter import Meter, Reading
from metarun.trainer.settings import Settings
from metarun.trainer.state import Diverged, Position
from metarun.trainer.update import Step


class Lines(list):
    """A log that keeps its lines."""

    def scalars(self, step, values, **labels):
        self.append({"step": step, **labels, **values})


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


class Counts:
    """A guard that has reverted so many updates with so many tasks."""

    def __init__(self, *counts):
        self.counts = list(counts)

    def take_counts(self):
        return self.counts.pop(0)


def step(loss, extra=None, penalty=None):
    return Step(*(None if value is None else tensor(value) for value in (loss, extra, penalty)), None)


def meter(*, guard=None, ranks=ALONE, log_every=4, **position):
    state = SimpleNamespace(losses=Losses(torch.device("cpu")), position=Position(**position), guard=guard)
    settings = Settings(0, iterations=1, tasks=3, optimizer={}, log_every=log_every)
    return Meter(settings, state, Lines(), ranks, Clock())


# Losses ------------------------------------------------------------------------------------------------------------------------


def test_losses_are_means_over_the_updates_made():
    losses = Losses(torch.device("cpu"))
    for of in (step(1.0), step(2.0, 4.0), step(0.0, 0.0, 6.0)):
        losses.add(of)
    assert losses.updates == 3
    assert losses.means(0) == pytest.approx({"learner": 1.0, "extra": 4 / 3, "penalty": 2.0})
    assert losses.means(1) == pytest.approx({"learner": 1.5, "extra": 2.0, "penalty": 3.0})
    assert all(value != value for value in losses.means(3).values())  # NaN
    losses.clear()
    assert (losses.updates, losses.parts, float(losses.learner)) == (0, {}, 0.0)


def test_losses_are_restored():
    losses, again = Losses(torch.device("cpu")), Losses(torch.device("cpu"))
    losses.add(step(1.5, None, 0.5))
    state = losses.state_dict()
    assert state == {"loss": (1.5, 1), "loss_parts": {"penalty": 0.5}}
    again.load_state_dict(state)
    for of in (losses, again):
        of.add(step(1.0, 2.0, 1.0))
    assert again.means(0) == losses.means(0) == {"learner": 1.25, "extra": 1.0, "penalty": 0.75}
    again.load_state_dict({"loss": (3.0, 2)})  # of an early version
    assert (again.means(0), again.parts) == ({"learner": 1.5}, {})


def test_sums_lie_on_the_learners_device():
    losses = Losses(torch.device("meta"))
    losses.load_state_dict({"loss": (3.0, 2), "loss_parts": {"extra": 1.0}})
    assert (losses.learner.device.type, losses.parts["extra"].device.type) == ("meta", "meta")


# Time and log ------------------------------------------------------------------------------------------------------------------


def test_time_is_that_between_start_and_log_without_pauses():
    of = meter(step=10, seconds=5.0)
    of.clock.now = 100.0
    of.start()
    of.clock.now += 2
    with of.paused():
        assert of.state.position.seconds == 7
        of.clock.now += 1000
    of.clock.now += 3
    of.state.losses.add(step(2.0))
    of.log_losses(Reading({"learner": 2.0}, 0))
    assert of.state.position.seconds == 10
    assert of.log == [{"step": 10, "train/loss": 2.0, "time/tasks_per_second": 3.0}]
    assert of.state.losses.updates == 0
    of.clock.now += 20
    of.log_losses(Reading({"learner": 2.0}, 0))
    assert of.state.position.seconds == 30


def test_loss_and_speed_are_shown_beside_the_bar(monkeypatch):
    of, shown = meter(step=10, seconds=4.0), []
    monkeypatch.setattr(of, "show", lambda **keys: shown.append(keys))
    of.log_losses(Reading({"learner": 1.23456, "extra": 1.0}, 0))
    assert shown == [{"loss": "2.235", "tasks/s": "8"}]


def test_parts_are_logged_where_there_are_several():
    of = meter(step=6)
    of.log_losses(Reading({"learner": 1.0, "penalty": 0.5}, 2))
    (line,) = of.log
    assert line.pop("time/tasks_per_second") == pytest.approx(18e9)
    assert line == {"step": 6, "train/loss": 1.5, "train/nonfinite": 2.0, "train/learner": 1.0, "train/penalty": 0.5}


def test_reverted_updates_are_counted_and_left_out():
    of = meter(guard=Counts((1, 2), (0, 0), (1, 1)), step=3)
    of.state.position.nonfinite = [4, 5]
    for loss in (1.0, 0.0, 5.0):
        of.state.losses.add(step(loss))
    assert of.read_losses() == Reading({"learner": 3.0}, 1)
    assert of.state.position.nonfinite == [5, 7]
    assert of.read_losses().reverted == 0
    assert of.read_losses().reverted == 1
    assert of.state.position.nonfinite == [6, 8]


def test_a_run_ends_where_none_of_as_many_updates_as_are_logged_was_finite():
    of = meter(guard=Counts((3, 3), (4, 4)), step=9)
    for _ in range(3):
        of.state.losses.add(step(0.0))
    assert of.read_losses().reverted == 3  # fewer than log_every
    of.state.losses.add(step(0.0))
    with pytest.raises(Diverged, match=r"^none of the last 4 updates was finite, at update 9$"):
        of.read_losses()
    of = meter(guard=Counts((5, 5)), step=9)  # more, after a restart with other keys
    for _ in range(6):
        of.state.losses.add(step(1.0))
    assert of.read_losses() == Reading({"learner": 6.0}, 5)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_loss_that_is_not_finite_ends_the_run(part):
    of = meter(step=7)
    of.state.losses.add(step(*(torch.inf if i == part else 1.0 for i in range(3))))
    with pytest.raises(Diverged, match=r"^the training loss is inf at update 7$"):
        of.read_losses()


# Bar ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks", "terminal", "disable"),
    [(ALONE, True, None), (ALONE, False, True), (Ranks(0, 2), True, None), (Ranks(1, 2), True, True)],
)
def test_the_bar_is_that_of_the_first_process_with_a_terminal(ranks, terminal, disable, monkeypatch):
    bars = []

    class Bar:
        disable = False

        def __init__(self, **keys):
            bars.append(keys)
            self.moved, self.postfix = 0, None

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self):
            self.moved += 1

        def set_postfix(self, shown, refresh):
            self.postfix = (dict(shown), refresh)

    monkeypatch.setattr(module, "tqdm", Bar)
    monkeypatch.setattr(module, "has_terminal", lambda: terminal)
    of = meter(ranks=ranks, step=25)
    assert not of.visible
    of.advance()
    of.show(early="1")
    with of.bar("stage", 20, 60):
        assert of.visible
        of.advance()
        of.show(loss="2")
        assert (of._bar.moved, of._bar.postfix) == (1, ({"early": "1", "loss": "2"}, False))
        of._bar.disable = True
        assert not of.visible
    expected = {"total": 40, "initial": 5, "desc": "stage", "unit": "update", "disable": disable, "dynamic_ncols": True}
    assert bars == [expected]


def test_a_process_of_several_has_no_terminal(monkeypatch):
    assert module.has_terminal()
    monkeypatch.setattr(module, "parent_process", lambda: logging)
    assert not module.has_terminal()

"""One outer update, of a learner and a method that note what is asked of them."""

from contextlib import contextmanager

import pytest
import torch
from torch import nn, tensor
from updates import SGD

from metarun.cl.method import ContinualMethod
from metarun.episodes import Episodes, Examples
from metarun.ranks import ALONE, Ranks
from metarun.trainer.guard import Guard
from metarun.trainer.optimizer import OuterOptimizer
from metarun.trainer.settings import Settings
from metarun.trainer.sharding import Sharding
from metarun.trainer.update import Update, clip_values

ADAM = {"_target_": "torch.optim.Adam", "lr": 0.1}


def episodes(*values, **context):
    """Tasks of a single query each."""
    x = tensor(values).view(-1, 1, 1)
    return Episodes(Examples(x[:, :0], x[:, :0]), Examples(x, x), context)


class Learner(nn.Module):
    """The loss of a task is its query; the gradient is the mean of the queries."""

    draws_once, gradient_scale, trains, why_not_sharded = True, 0.5, True, None

    def __init__(self, notes):
        super().__init__()
        self.w, self.unused = nn.Parameter(tensor([1.0, 2.0])), nn.Parameter(tensor([3.0]))
        self.register_buffer("mean", tensor([4.0]))
        self.register_buffer("count", tensor([6]))
        self.notes = notes

    def backward(self, given):
        self.notes.append(("backward", given.query.x.flatten().tolist()))
        autocast = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")
        self.notes.append(("precision", autocast))
        gradient = given.query.x.mean().expand(2)
        self.w.grad = gradient.clone() if self.w.grad is None else self.w.grad + gradient
        return given.query.x.flatten()

    def write_statistics(self):
        self.notes.append("statistics")


class Method(ContinualMethod):
    """Adds 2 Σ w to the loss and 1 to the gradient."""

    sees_tasks = True

    def __init__(self, notes):
        self.notes = notes

    def mix(self, given):
        self.notes.append("mix")
        return episodes(*(given.query.x.flatten() + 10).tolist(), **given.context)

    def loss(self, algorithm, given):
        self.notes.append(("loss", given.query.x.flatten().tolist()))
        return 2 * algorithm.w.sum()

    def penalty(self, algorithm):
        self.notes.append(("penalty", torch.is_autocast_enabled("cpu")))
        return 3 * algorithm.w.sum()

    def gradient(self, algorithm):
        self.notes.append(("gradient", algorithm.w.grad.tolist()))
        algorithm.w.grad += 1

    def curvature(self, algorithm):
        assert isinstance(algorithm, Learner)
        self.notes.append("curvature")
        return {"w": tensor([1.0, 3.0])}

    def project(self, algorithm):
        self.notes.append(("project", algorithm.w.grad.tolist()))


class Halves(Ranks):
    """Two processes, the other of which has zeros everywhere."""

    def __init__(self, notes, rank=0):
        super().__init__(rank, 2)
        self.notes = notes

    def all_reduce_mean(self, tensors, share):
        self.notes.append(("mean", [value.clone() for value in tensors], share))
        for value in tensors:
            value *= share

    @contextmanager
    def independent_draws(self, device, *, shared):
        self.notes.append(("draws", device, shared))
        yield
        self.notes.append("drawn")


def made(*, own=None, ranks=None, optimizer=SGD, tasks=2, **keys):
    notes = []
    learner, method = Learner(notes), (own or Method)(notes) if own is not ContinualMethod else ContinualMethod()
    settings = Settings(0, iterations=1, tasks=tasks, optimizer=optimizer, **keys)
    outer = OuterOptimizer(learner.parameters(), settings, 1)
    guard = Guard(learner, outer.torch) if settings.nonfinite == "skip" else None
    sharding = Sharding(learner, method, settings, ALONE if ranks is None else ranks(notes))
    return Update(learner, method, outer, settings, sharding, guard), learner, notes


def test_an_update_calls_learner_and_method_in_order():
    update, learner, notes = made(optimizer={"_target_": "torch.optim.SGD", "lr": 1.0})
    learner.w.grad = tensor([100.0, 100.0])  # of an update before
    step = update(episodes(1.0, 2.0))
    assert notes == [
        "mix",
        ("backward", [11.0, 12.0]),
        ("precision", False),
        ("loss", [1.0, 2.0]),
        "statistics",
        ("penalty", False),
        ("gradient", [12.5, 12.5]),  # 11.5 + 0.5 · 2
        "curvature",
        ("project", [6.75, 3.375]),  # 13.5 / (1 + 1), 13.5 / (1 + 3)
    ]
    assert learner.w.tolist() == [1 - 6.75, 2 - 3.375]
    assert learner.unused.grad is None
    assert (float(step.loss), float(step.extra), float(step.penalty), step.finite) == (11.5, 6.0, 9.0, None)
    assert not any(value.requires_grad for value in step[:3])


def test_a_step_is_made_implicit_under_sgd_alone():
    update, _, notes = made(optimizer=ADAM)
    update(episodes(1.0, 2.0))
    assert "curvature" not in notes
    assert ("project", [13.5, 13.5]) in notes


def test_the_loss_has_the_weights_of_tasks():
    update, _, _ = made(own=ContinualMethod)
    step = update(episodes(1.0, 5.0, weight=tensor([1.5, 0.5])))
    assert (float(step.loss), step.extra, step.penalty) == (2.0, None, None)


def test_a_loss_of_nothing_writes_no_statistics():
    update, _, notes = made(own=ContinualMethod)
    update(episodes(1.0, 5.0))
    assert "statistics" not in notes


@pytest.mark.parametrize(("precision", "seen"), [("float32", False), ("tf32", False), ("bfloat16", torch.bfloat16)])
def test_the_passes_of_learner_and_method_have_the_precision_and_no_others(precision, seen):
    update, _, notes = made(precision=precision)
    update(episodes(1.0, 2.0))
    assert ("precision", seen) in notes
    assert ("penalty", False) in notes
    assert not torch.is_autocast_enabled("cpu")


def test_processes_average_loss_gradients_and_statistics():
    update, learner, notes = made(ranks=Halves, tasks=5, own=Method, optimizer={"_target_": "torch.optim.SGD", "lr": 1.0})
    step = update(episodes(1.0, 2.0, 3.0, 4.0, 5.0))
    assert ("backward", [11.0, 12.0]) in notes  # the first two of five
    assert notes.index(("draws", torch.device("cpu"), True)) < notes.index(("backward", [11.0, 12.0])) < notes.index("drawn")
    assert ("loss", [1.0, 2.0, 3.0, 4.0, 5.0]) in notes
    ((_, tensors, share),) = [note for note in notes if note[0] == "mean"]
    assert [value.tolist() for value in tensors] == [11.5, [12.5, 12.5], [4.0]]
    assert share == 0.4
    assert float(step.loss) == pytest.approx(4.6)
    assert (learner.mean.tolist(), learner.count.tolist()) == ([pytest.approx(1.6)], [6])
    assert ("gradient", [5.0, 5.0]) in notes  # after the average
    assert float(step.extra) == 6.0


def test_a_single_process_averages_with_nobody(monkeypatch):
    update, _, _ = made()
    monkeypatch.setattr(update.sharding.ranks, "all_reduce_mean", None)
    update(episodes(1.0, 2.0))


@pytest.mark.parametrize(("values", "counts"), [((1.0, 2.0), [0, 0]), ((1.0, torch.inf), [1, 1]), ((torch.nan, torch.inf), [1, 2])])
def test_tasks_that_are_not_finite_are_counted_and_their_update_is_reverted(values, counts):
    update, learner, _ = made(nonfinite="skip")
    step = update(episodes(*values))
    assert update.guard.counts.tolist() == counts
    good = not counts[0]
    assert bool(step.finite) == good
    assert [float(value) for value in step[:3]] == ([11.5, 6.0, 9.0] if good else [0.0, 0.0, 0.0])
    assert (learner.w.tolist() == [1.0, 2.0]) != good


def test_tasks_of_other_processes_count_too():
    """Own tasks are two of five: the mean of one bad of two, averaged over the processes, is one task."""
    update, _, notes = made(ranks=Halves, tasks=5, nonfinite="skip")
    update(episodes(1.0, torch.nan, 3.0, 4.0, 5.0))
    ((_, tensors, _),) = [note for note in notes if note[0] == "mean"]
    assert float(tensors[1]) == 0.5
    assert update.guard.counts.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("keys", "expected"), [({"clip_value": 0.5}, [0.5, 0.5]), ({"clip": 0.5}, [0.5 / 2**0.5] * 2), ({}, [2.0, 2.0])]
)
def test_gradients_are_clipped(keys, expected):
    update, learner, _ = made(own=ContinualMethod, optimizer={"_target_": "torch.optim.SGD", "lr": 1.0}, **keys)
    update(episodes(1.0, 3.0))
    assert (tensor([1.0, 2.0]) - learner.w).tolist() == pytest.approx(expected, rel=1e-5)


def test_components_are_clipped_on_both_sides_and_none_becomes_finite():
    w, without, other = (nn.Parameter(torch.zeros(n)) for n in (6, 1, 1))
    w.grad = tensor([-2.0, -0.5, 0.25, 3.0, torch.inf, -torch.inf])
    other.grad = tensor([9.0])
    clip_values([w, without, other], 1.0)
    assert w.grad[:4].tolist() == [-1.0, -0.5, 0.25, 1.0]
    assert w.grad[4:].isnan().all()
    assert without.grad is None
    assert other.grad.tolist() == [1.0]
    assert not w.grad.requires_grad

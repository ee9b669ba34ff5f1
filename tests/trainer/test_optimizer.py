"""The outer optimizer: its schedule restarts, its parameters grow in number, its moments can be dropped."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from metarun.config import ConfigError
from metarun.trainer.optimizer import OuterOptimizer
from metarun.trainer.settings import Settings

ADAM = {"_target_": "torch.optim.Adam", "lr": 0.1}
SGD = {"_target_": "torch.optim.SGD", "lr": 1.0}


def weight(value=1.0):
    return nn.Parameter(torch.tensor([value]))


def made(weights, *, optimizer=SGD, scheduler=None, updates=4):
    return OuterOptimizer(weights, Settings(0, iterations=1, tasks=1, optimizer=optimizer, scheduler=scheduler), updates)


def stepped(optimizer, *weights, gradient=1.0):
    for w in weights:
        w.grad = torch.full_like(w, gradient)
    optimizer.step()


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("linear", [1.0, 0.75, 0.5, 0.25, 0.0]),
        ("cosine", [1.0, 0.8535534, 0.5, 0.1464466, 0.0]),
        ({"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 2, "gamma": 0.1}, [1.0, 1.0, 0.1, 0.1, 0.01]),
        (None, [1.0] * 5),
    ],
)
def test_a_schedule_begins_anew(schedule, rates):
    w = weight()
    optimizer = made([w], scheduler=schedule)
    for _ in range(2):
        for rate in rates[:-1]:
            assert optimizer.torch.param_groups[0]["lr"] == pytest.approx(rate)
            before = float(w.detach())
            stepped(optimizer, w)
            assert before - float(w.detach()) == pytest.approx(rate, rel=1e-5)
        assert optimizer.torch.param_groups[0]["lr"] == pytest.approx(rates[-1], abs=1e-12)
        optimizer.restart_schedule()


def test_no_updates_are_no_division_by_zero():
    for schedule in ("linear", "cosine"):
        assert made([weight()], scheduler=schedule, updates=0).torch.param_groups[0]["lr"] == 1.0


def test_new_parameters_follow_the_schedule():
    old, new = weight(), weight()
    optimizer = made([old], scheduler="linear")
    stepped(optimizer, old)
    optimizer.extend([old, new])
    optimizer.extend([old, new])
    assert optimizer.torch.param_groups[0]["params"] == [old, new]
    stepped(optimizer, old, new)
    assert float(new.detach()) == pytest.approx(1 - 0.75)


def test_moments_are_dropped():
    first, second = weight(), weight()
    optimizer = made([first, second], optimizer=ADAM)
    stepped(optimizer, first, second)
    optimizer.forget([first, weight()])
    assert set(optimizer.torch.state) == {second}
    stepped(optimizer, first, second)
    optimizer.forget()
    assert not optimizer.torch.state


def test_gradients_are_cleared_and_not_zeroed():
    w = weight()
    optimizer = made([w])
    w.grad = torch.ones_like(w)
    optimizer.clear_gradients()
    assert w.grad is None


@pytest.mark.parametrize(
    ("optimizer", "fused"),
    [
        (ADAM, True),
        (ADAM | {"_target_": "torch.optim.AdamW"}, True),
        (SGD, True),
        (SGD | {"momentum": 0.0}, True),
        (SGD | {"momentum": 0.9}, None),
        (ADAM | {"fused": False}, False),
        ({"_target_": "torch.optim.Adagrad"}, None),
    ],
)
def test_the_fused_form_is_taken_where_it_works(optimizer, fused):
    assert made([weight()], optimizer=optimizer).torch.defaults.get("fused") is fused


@pytest.mark.parametrize("schedule", ["linear", None])
def test_the_state_is_restored(schedule):
    one, other = weight(), weight()
    optimizer, again = (made([w], optimizer=ADAM, scheduler=schedule) for w in (one, other))
    stepped(optimizer, one, gradient=3.0)
    state = deepcopy(optimizer.state_dict())
    assert set(state) == {"optimizer", "scheduler"}
    assert (state["scheduler"] is None) == (schedule is None)
    again.load_state_dict(state)
    with torch.no_grad():
        other.copy_(one)
    for of, w in ((optimizer, one), (again, other)):
        stepped(of, w)
        stepped(of, w)
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"optimizer": {"_target_": "torch.optim.Adam", "rate": 1}}, "trainer.optimizer"),
        ({"scheduler": {"_target_": "torch.optim.lr_scheduler.StepLR", "steps": 1}}, "trainer.scheduler"),
    ],
)
def test_a_mistake_names_its_key(keys, key):
    with pytest.raises(ConfigError, match=rf"^{key}\."):
        made([weight()], **keys)

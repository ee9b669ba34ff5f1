"""The state of a run: what a checkpoint holds of it, and what is checked before one is written."""

from copy import deepcopy

import pytest
import torch
from torch import nn, tensor

from metarun.cl.method import ContinualMethod
from metarun.trainer.best import BestWeights
from metarun.trainer.detector import BoundaryDetector
from metarun.trainer.guard import Guard
from metarun.trainer.losses import Losses
from metarun.trainer.optimizer import OuterOptimizer
from metarun.trainer.runstate import RunState
from metarun.trainer.settings import Settings
from metarun.trainer.state import Diverged, Position, require_finite
from metarun.trainer.update import Step

CPU = torch.device("cpu")


class Growing(ContinualMethod):
    """Adds a weight in each stage."""

    def __init__(self):
        self.told = None

    def grow(self, algorithm, stage):
        algorithm.register_parameter(f"w{stage}", nn.Parameter(tensor([float(stage)])))

    def state_dict(self):
        return {"kept": self.told}

    def load_state_dict(self, state):
        self.told = state["kept"]


def made(*, guard=True, detect=1.0):
    torch.manual_seed(0)
    learner, position = nn.Linear(2, 1), Position(order=[0, 1, 2])
    adam = {"_target_": "torch.optim.Adam", "lr": 0.1}
    optimizer = OuterOptimizer(learner.parameters(), Settings(0, iterations=9, tasks=1, optimizer=adam, scheduler="linear"), 9)
    return RunState(
        algorithm=learner,
        method=Growing(),
        given=["a", "b", "c"],
        stages=["a", "b", "c"],
        iterations=9,
        position=position,
        optimizer=optimizer,
        losses=Losses(CPU),
        best=BestWeights(2, position),
        guard=Guard(learner, optimizer.torch) if guard else None,
        detector=BoundaryDetector(1.0) if detect else None,
    )


def updated(state, times=1):
    for _ in range(times):
        for w in state.algorithm.parameters():
            w.grad = torch.ones_like(w)
        state.optimizer.step()
        state.losses.add(Step(tensor(2.0), None, None, None))
        state.position.step += 1


def used(state):
    """After two stages have begun."""
    state.take([2, 0, 1])
    for stage in range(2):
        state.grow(stage)
        state.position.started += 1
        updated(state, 2)
    state.position.rows, state.position.seconds = [[[1.0]]], 4.5
    state.best.offer(state.algorithm, 3.0)
    state.method.told = 5
    if state.guard:
        state.guard.counts += tensor([1, 2])
    if state.detector:
        state.detector.mean, state.detector.rounds = 0.25, 3
    return state


def test_stages_are_taken_in_place():
    state = made()
    stages = state.stages
    state.take([2, 0, 1])
    assert state.stages is stages
    assert (stages, state.given, state.position.order, state.total) == (["c", "a", "b"], ["a", "b", "c"], [2, 0, 1], 27)


def test_what_grows_is_trained():
    state = made()
    state.grow(4)
    assert state.algorithm.w4 is state.optimizer.torch.param_groups[0]["params"][-1]
    updated(state)
    assert float(state.algorithm.w4.detach()) == pytest.approx(3.9)


@pytest.mark.parametrize("keys", [{}, {"guard": False, "detect": None}])
def test_a_restored_state_goes_on_as_the_same(keys):
    one = used(made(**keys))
    saved = deepcopy(one.state_dict())  # as from a file
    names = {"position", "algorithm", "best", "optimizer", "scheduler", "method", "jumps", "loss", "loss_parts", "nonfinite"}
    assert set(saved) == names
    assert (saved["jumps"] is None, saved["nonfinite"] is None) == (bool(keys), bool(keys))
    other = made(**keys)
    position, counts = other.position, keys or other.guard.counts
    other.load_state_dict(saved)
    assert other.position is position is other.best.position
    assert vars(position) == vars(one.position)
    assert other.stages == ["c", "a", "b"]
    assert other.method.told == 5
    assert other.best.steps == [4]
    assert other.losses.means(0) == {"learner": 2.0}
    if not keys:
        assert other.guard.counts is counts
        assert counts.tolist() == [1, 2]
        assert (other.detector.mean, other.detector.rounds) == (0.25, 3)
    for state in (one, other):
        updated(state)
    assert one.algorithm.state_dict().keys() == other.algorithm.state_dict().keys()
    for name, value in one.algorithm.state_dict().items():
        assert torch.equal(other.algorithm.state_dict()[name], value), name
    assert not torch.equal(other.best.states[0]["weight"], other.algorithm.weight)


@pytest.mark.parametrize("left", [None, "without"])
def test_a_guard_counts_from_0_where_there_was_none(left):
    saved = used(made(guard=False)).state_dict()
    if left == "without":  # a checkpoint of an early version
        del saved["nonfinite"]
    other = made()
    other.load_state_dict(saved)
    assert other.guard.counts.tolist() == [0, 0]


def test_what_is_not_finite_is_no_checkpoint():
    state = used(made())
    state.require_finite()
    state.losses.learner.fill_(torch.inf)
    with pytest.raises(Diverged, match=r"^the training loss is inf at update 4$"):
        state.require_finite()
    state.losses.clear()
    with torch.no_grad():
        state.algorithm.weight[0, 1] = torch.nan
    with pytest.raises(Diverged, match=r"^a weight is not finite at update 4$"):
        state.require_finite()


def test_a_loss_that_is_not_finite_is_named():
    require_finite(-1e30, 3)
    for loss in (float("nan"), float("-inf")):
        with pytest.raises(Diverged, match=rf"^the training loss is {loss} at update 3$"):
            require_finite(loss, 3)


def test_a_position_begins_at_nothing():
    assert vars(Position()) == {
        **dict.fromkeys(("step", "started", "ended"), 0),
        **{name: [] for name in ("order", "rows", "online", "best", "resumed_at")},
        "nonfinite": [0, 0],
        "seconds": 0.0,
    }
    assert Position().nonfinite is not Position().nonfinite

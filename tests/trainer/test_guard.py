"""Updates that are not finite are taken back: weights, optimizer, continual state; counted, and the end of a run if all are."""

import json

import pytest
import torch
from streams import learner, method, stream, train
from torch import nn, tensor

from metarun.algo.supervised import Supervised
from metarun.tracking import RunFolder
from metarun.trainer.guard import Guard
from metarun.trainer.losses import Losses
from metarun.trainer.state import Diverged
from metarun.trainer.update import Update

BAD = (0, 3, 4)
"""Updates with a task whose loss is not finite; the first of them is the optimizer's first."""


@pytest.fixture
def harm(monkeypatch):
    """Make the updates ``bad`` not finite, and note the state before and after each."""

    def do(bad, what="loss"):
        seen = []
        losses, update, add = Supervised.losses, Update.__call__, Losses.add

        def harmed(self, episodes):
            found = losses(self, episodes)
            if self.training and torch.is_grad_enabled() and harmed.now:
                if what == "loss":
                    found = found * torch.where(torch.arange(len(found)) == 1, torch.inf, 1.0)
                else:  # finite, with a gradient that is not
                    found = found + (next(self.parameters()).flatten()[0] * 0).sqrt()
            return found

        def watched(of, episodes):
            harmed.now = len(seen) in bad
            harmed.update, harmed.before = of, state(of)
            return update(of, episodes)

        def added(of, step):  # after the continual method has been told of the update
            seen.append((len(seen), harmed.before, state(harmed.update)))
            add(of, step)

        monkeypatch.setattr(Supervised, "losses", harmed)
        monkeypatch.setattr(Update, "__call__", watched)
        monkeypatch.setattr(Losses, "add", added)
        return seen

    return do


def state(update):
    """Weights, statistics, optimizer and continual state, flat."""
    found = {f"w.{name}": value.clone() for name, value in update.algorithm.state_dict().items()}
    for i, of in enumerate(update.optimizer.torch.state.values()):
        found |= {f"o.{i}.{name}": value.clone() for name, value in of.items() if value is not None}
    flat, left = {}, {"m": update.method.state_dict()}
    while left:
        name, value = left.popitem()
        if isinstance(value, dict):
            left |= {f"{name}.{key}": inner for key, inner in value.items()}
        elif isinstance(value, torch.Tensor):
            flat[name] = value.clone()
        else:
            flat[name] = torch.tensor(0 if value is None else value)
    return found | flat


@pytest.mark.parametrize("clip_value", [None, 0.1])
@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize(
    ("optimizer", "cl", "keys"),
    [
        ("Adam", "si", ()),
        ("SGD", "replay", ("cl.keep=reservoir",)),
        ("Adagrad", "der", ()),
        ("RMSprop", "none", ()),
    ],
)
def test_nothing_changes_in_an_update_that_is_not_finite(harm, what, optimizer, cl, keys, clip_value, tmp_path):
    seen = harm(BAD, what)
    of = {"_target_": f"torch.optim.{optimizer}", "lr": 0.01} | ({"momentum": 0.9} if optimizer == "SGD" else {})
    settings = {"nonfinite": "skip", "optimizer": of, "log_every": 6, "clip_value": clip_value}
    outcome, algorithm = train(tmp_path, stream("class", stages=2), method(cl, *keys), **settings)
    assert outcome.position.nonfinite == [3, 3 if what == "loss" else 0]
    assert all(bool(w.isfinite().all()) for w in algorithm.parameters())
    for step, before, after in seen:
        same = all(torch.equal(after[name], value) for name, value in before.items())
        made = all(not value.any() for name, value in after.items() if name not in before)
        assert (same and made) == (step in BAD), step
    lines = [json.loads(line) for line in RunFolder(tmp_path).metrics_path.read_text().splitlines()]
    losses = [line for line in lines if "train/loss" in line]
    assert [line.get("train/nonfinite") for line in losses] == [3.0, None]
    assert all(line["train/loss"] is not None for line in losses)


def test_without_anything_to_take_back_it_is_as_without(tmp_path):
    data = stream("class")
    _, plain = train(tmp_path / "stop", data, method("ewc"))
    _, guarded = train(tmp_path / "skip", data, method("ewc"), nonfinite="skip")
    for name, value in plain.state_dict().items():
        assert torch.equal(guarded.state_dict()[name], value)


def test_a_window_without_a_finite_update_ends_the_run(harm, tmp_path):
    harm(range(3, 100))
    with pytest.raises(Diverged, match="none of the last 3 updates was finite, at update 6"):
        train(tmp_path, stream("class"), method("none"), nonfinite="skip", log_every=3)


def test_the_usual_is_to_stop(harm, tmp_path):
    harm(BAD)
    with pytest.raises(Diverged, match=r"the training loss is (inf|nan) at update 6"):
        train(tmp_path, stream("class"), method("none"), algorithm=learner(stream("class")))


# The guard by itself -------------------------------------------------------------------------------------------------------------


def guarded(**keys):
    """A guard of two weights, one of them without a gradient, and a statistic, after a first update."""
    learner = nn.Module()
    learner.w, learner.unused = nn.Parameter(tensor([1.0, 2.0])), nn.Parameter(tensor([3.0]))
    learner.register_buffer("seen", tensor(4))
    guard = Guard(learner, torch.optim.SGD(learner.parameters(), lr=1.0, **keys))
    return guard, learner


def updated(guard, *, loss=1.0, bad=0.0, gradient=(0.5, 0.25), late=None):
    """One update; ``late``: what a method's gradient becomes after the backward passes."""
    guard.begin()
    guard.algorithm.w.grad = tensor(gradient)
    guard.algorithm.seen += 1
    guard.judge(tensor(loss), tensor(bad))
    judged = guard.algorithm.w.grad.tolist()
    if late is not None:
        guard.algorithm.w.grad = tensor(late)
    guard.optimizer.step()
    guard.end()
    return judged


def test_a_finite_update_stays():
    guard, learner = guarded()
    assert bool(guard.finite)
    assert updated(guard) == [0.5, 0.25]
    assert (learner.w.tolist(), int(learner.seen)) == ([0.5, 1.75], 5)
    assert learner.unused.grad is None
    assert bool(guard.finite)
    assert guard.take_counts() == (0, 0)


@pytest.mark.parametrize(
    ("keys", "judged"),
    [
        ({"loss": torch.nan}, [0.0, 0.0]),
        ({"gradient": (torch.inf, 1.0)}, [0.0, 0.0]),
        ({"late": (1.0, torch.nan)}, [0.5, 0.25]),
    ],
)
def test_what_is_not_finite_reverts_weights_statistics_and_momentum(keys, judged):
    guard, learner = guarded(momentum=0.5)
    updated(guard)
    assert updated(guard, **keys) == judged
    assert not guard.finite
    assert (learner.w.tolist(), int(learner.seen)) == ([0.5, 1.75], 5)
    assert guard.optimizer.state[learner.w]["momentum_buffer"].tolist() == [0.5, 0.25]
    assert guard.counts.tolist() == [1, 0]
    updated(guard)  # as if nothing had been
    assert bool(guard.finite)
    assert learner.w.tolist() == [0.5 - 0.75, 1.75 - 0.375]


def test_state_that_a_reverted_first_step_created_is_0():
    guard, learner = guarded(momentum=0.5)
    updated(guard, late=(torch.nan, 1.0))
    assert guard.optimizer.state[learner.w]["momentum_buffer"].tolist() == [0.0, 0.0]


def test_what_the_optimizer_keeps_besides_tensors_is_left_alone():
    guard, learner = guarded()
    guard.optimizer.state[learner.w] = {"name": "w", "age": tensor(2.0)}
    updated(guard, loss=torch.inf)
    assert guard.optimizer.state[learner.w] == {"name": "w", "age": tensor(2.0)}


def test_counts_add_up_until_they_are_taken():
    guard, _ = guarded()
    updated(guard, bad=1.9999)  # a mean of float32
    updated(guard, bad=3.0, loss=torch.nan)
    updated(guard, loss=torch.nan)
    assert guard.take_counts() == (2, 5)
    assert guard.take_counts() == (0, 0)
    updated(guard, bad=1.0, loss=torch.nan)
    assert guard.take_counts() == (1, 1)


def test_the_guard_is_on_the_learners_device():
    learner = nn.Linear(1, 1, device="meta")
    guard = Guard(learner, torch.optim.SGD(learner.parameters()))
    assert (guard.finite.device.type, guard.counts.device.type) == ("meta", "meta")
    assert (guard.finite.dtype, guard.counts.dtype) == (torch.bool, torch.int64)

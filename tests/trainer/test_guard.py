"""Updates that are not finite are taken back: weights, optimizer, continual state; counted, and the end of a run if all are."""

import json

import pytest
import torch
from streams import learner, method, stream, train

from metarun.algo.supervised import Supervised
from metarun.tracking import RunFolder
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

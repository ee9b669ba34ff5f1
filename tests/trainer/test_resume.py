"""What a checkpoint holds, and that a run that goes on from it is the run that nothing has happened to."""

import json
from itertools import count

import pytest
import torch
from streams import learner, method, stopped_and_resumed, stream, train

from metarun.algo.supervised import Supervised
from metarun.tracking import RunFolder
from metarun.trainer import checkpoint, detector
from metarun.trainer.best import BestWeights
from metarun.trainer.losses import Losses
from metarun.trainer.snapshot import Snapshots
from metarun.trainer.state import Diverged, Pruned

SGD = {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9}
STEPS = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 2, "gamma": 0.5}
CASES = {  # continual method, stages, update to stop in, keys of the trainer
    "momentum": ("none", 3, 8, {"optimizer": SGD, "scheduler": "cosine", "clip": 1.0, "log_every": 4}),
    "steps": ("none", 3, 9, {"scheduler": STEPS, "log_every": 4, "clip_value": 0.01}),
    "best": ("none", 1, 4, {"iterations": 7, "validate_every": 2, "keep_best": 2, "log_every": 4}),
    "parts": ("ewc", 3, 9, {"log_every": 4}),
    "extra": ("lwf", 3, 8, {"log_every": 5}),
    "skip": ("replay", 3, 3, {"nonfinite": "skip", "log_every": 6, "optimizer": SGD}),
    "order": ("heads", 3, 7, {"order": "active", "reset_optimizer": True}),
    "jumps": ("ewc", 3, 50, {"switch": 0.2, "detect": 0.5, "iterations": 30, "log_every": 7}),
}
BAD = (3, 4, 8)
"""Updates of which one task's loss is not finite, where that is skipped: in one interval of the log before and after the stop."""


@pytest.fixture
def harm(monkeypatch):
    own = Supervised.losses

    def losses(self, episodes):
        found = own(self, episodes)
        bad = self.training and torch.is_grad_enabled() and round(self.progress * 18) in BAD
        return found * torch.where(torch.arange(len(found)) == 1, torch.inf, 1.0) if bad else found

    def do():
        monkeypatch.setattr(Supervised, "losses", losses)

    return do


def content(path):
    """Of the last checkpoint, without what a clock or the stop says."""
    found = checkpoint.load(RunFolder(path).last)
    del found["position"]["seconds"], found["position"]["resumed_at"]
    return found


def lines_of(path):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.startswith("time/")} for line in lines]


def assert_same(found, expected, at=""):
    """To the bit, all the way down."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), at
        for key, value in expected.items():
            assert_same(found[key], value, f"{at}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), at
        for i, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{at}.{i}")
    elif isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype, at
        assert torch.equal(found, expected), at
    else:
        assert found == expected, at


@pytest.mark.parametrize("name", CASES)
def test_a_resumed_run_is_the_whole_run(name, harm, tmp_path, monkeypatch, caplog):
    cl, stages, update, keys = CASES[name]
    monkeypatch.setattr(detector, "WARMUP", 3)
    if name == "skip":
        harm()
    data = stream("class" if "switch" in keys else "domain", stages=stages)
    whole, _ = train(tmp_path / "whole", data, method(cl), **keys)
    with caplog.at_level("INFO", logger="metarun.trainer.snapshot"):
        again, _ = stopped_and_resumed(tmp_path / "stopped", data, cl, (), update, monkeypatch, **keys)
    (at,) = again.position.resumed_at
    total = keys.get("iterations", 6) * stages
    assert f"Continuing at update {at} of {total}" in [record.getMessage() for record in caplog.records]
    assert 0 < at <= update + 1
    assert at % keys.get("log_every", 100) != 0  # so that sums are carried over
    assert_same(content(tmp_path / "stopped"), content(tmp_path / "whole"))
    assert_same(lines_of(tmp_path / "stopped"), lines_of(tmp_path / "whole"))
    for one, other in zip((*again.test, *again.validation), (*whole.test, *whole.validation), strict=True):
        assert (one == other).all()
    assert (again.stages, again.rows, again.rounds, again.boundaries) == (whole.stages, whole.rows, whole.rounds, whole.boundaries)
    if keys.get("keep_best"):
        assert len(whole.position.best) == 2
        assert_same(*(checkpoint.load(RunFolder(tmp_path / of).best) for of in ("stopped", "whole")))
    if name == "skip":
        assert whole.position.nonfinite == [3, 3]
        told = [line.get("train/nonfinite") for line in lines_of(tmp_path / "whole") if "train/loss" in line]
        assert told == [2.0, 1.0, None]
    if name == "jumps":
        assert len(whole.boundaries) > 1


def test_a_checkpoint_says_all_that_a_run_goes_on_from(tmp_path, monkeypatch):
    """In the middle of the second stage, between two lines of the log."""
    data, cl = stream("domain"), method("ewc")
    algorithm = learner(data)
    seen, own = {}, checkpoint.save

    def save(path, what, previous=None):
        own(path, what, previous)
        step = what["position"]["step"]
        if step == 8 and not seen:
            seen.update(checkpoint.load(path), rate=what["optimizer"]["param_groups"][0]["lr"])
            seen["weights"] = {name: value.clone() for name, value in algorithm.state_dict().items()}

    monkeypatch.setattr(checkpoint, "save", save)
    keys = {"log_every": 3, "scheduler": "linear", "order": "random"}
    train(tmp_path, data, cl, algorithm=algorithm, checkpoint_every=0.0, **keys)  # after every update
    assert set(seen) - {"rate", "weights"} == {
        *("schema", "source", "position", "algorithm", "best", "optimizer", "scheduler", "method"),
        *("jumps", "loss", "loss_parts", "nonfinite", "lines"),
    }
    assert (seen["schema"], seen["source"], seen["jumps"], seen["nonfinite"], seen["best"]) == (1, "tests", None, None, [])
    position = seen["position"]
    assert {key: position[key] for key in ("step", "started", "ended", "online", "best", "nonfinite", "resumed_at")} == {
        "step": 8,
        "started": 2,
        "ended": 1,
        "online": [],
        "best": [],
        "nonfinite": [0, 0],
        "resumed_at": [],
    }
    assert sorted(position["order"]) == [0, 1, 2]
    assert len(position["rows"]) == 2
    assert position["seconds"] > 0
    assert seen["rate"] == pytest.approx(0.01 * (1 - 2 / 6))
    assert seen["scheduler"]["last_epoch"] == 2
    assert_same(seen["algorithm"], seen["weights"])
    assert all(float(of["step"]) == 8 for of in seen["optimizer"]["state"].values())
    total, count = seen["loss"]
    assert count == 2  # since update 6
    lines = [line for line in lines_of(tmp_path) if line.get("step", 0) in (6, 9) and "train/loss" in line]
    assert 0 < total / 2 < 2 * lines[0]["train/loss"]
    assert set(seen["loss_parts"]) == {"penalty"}
    written = lines_of(tmp_path)[: seen["lines"]]
    assert max(line["step"] for line in written) == 6
    assert lines_of(tmp_path)[seen["lines"]]["step"] == 9


def test_checkpoints_that_say_less_are_read(tmp_path, monkeypatch):
    """Those of before parts of the loss, updates taken back and lines were kept."""
    data, own = stream("domain"), torch.load
    train(tmp_path / "whole", data, method("none"), log_every=6, nonfinite="skip")

    def load(path, **how):
        found = own(path, **how)
        return {key: value for key, value in found.items() if key not in ("loss_parts", "nonfinite", "lines")}

    monkeypatch.setattr(torch, "load", load)
    stopped_and_resumed(tmp_path / "old", data, "none", (), 6, monkeypatch, log_every=6, nonfinite="skip")
    assert_same(lines_of(tmp_path / "old"), lines_of(tmp_path / "whole"))
    assert_same(content(tmp_path / "old"), content(tmp_path / "whole"))


def test_lines_after_the_checkpoint_are_cut_off(tmp_path, monkeypatch):
    """Of its very step, too: a run may be killed between a line and the checkpoint that would have known of it."""
    data, own = stream("domain"), Snapshots.save
    train(tmp_path / "whole", data, method("none"), log_every=2)

    def save(snapshots):
        own(snapshots)
        position = snapshots.state.position
        if position.step == 6 and position.started == 2:
            for step in (6, 7, 8):
                snapshots.log.scalars(step, {"lost": 1.0})
            raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Snapshots, "save", save)
        with pytest.raises(RuntimeError, match="killed"):
            train(tmp_path / "killed", data, method("none"), log_every=2)
    assert "lost" in (tmp_path / "killed/metrics.jsonl").read_text()
    train(tmp_path / "killed", data, method("none"), log_every=2)
    assert_same(lines_of(tmp_path / "killed"), lines_of(tmp_path / "whole"))


def test_the_best_weights_are_written_only_where_they_have_changed(tmp_path, monkeypatch):
    data, own, written = stream("domain", stages=1), checkpoint.save, []

    def save(path, what, previous=None):
        written.append((path.name, what.get("steps")))
        own(path, what, previous)

    found = iter([0.3, 0.5, 0.4, 0.5])
    offer = BestWeights.offer
    monkeypatch.setattr(checkpoint, "save", save)
    monkeypatch.setattr(BestWeights, "offer", lambda best, algorithm, _: offer(best, algorithm, next(found)))
    train(tmp_path, data, method("none"), iterations=4, validate_every=1, checkpoint_every=0.0)
    assert [steps for name, steps in written if name == "best.pt"] == [[1], [2]]
    assert [name for name, _ in written].count("last.pt") == 6  # the first, after each validation, the last


def test_a_run_that_was_pruned_or_has_diverged_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    data, keys = stream("domain", stages=1), {"iterations": 6, "validate_every": 2, "log_every": 4}
    train(tmp_path / "whole", data, method("none"), **keys)
    folder = RunFolder(tmp_path / "pruned")
    folder.path.mkdir()
    folder.stop.touch()
    for step in (2, 4):
        with pytest.raises(Pruned, match=f"^pruned at update {step} of 6$"):
            train(folder.path, data, method("none"), **keys)
    folder.stop.unlink()
    train(folder.path, data, method("none"), **keys)
    assert checkpoint.load(folder.last)["position"]["resumed_at"] == [2, 4]
    assert_same(content(folder.path), content(tmp_path / "whole"))
    own, made = Losses.add, count(1)

    def add(losses, step):
        own(losses, step)
        if next(made) == 5:
            losses.learner.fill_(torch.nan)

    with monkeypatch.context() as patch:
        patch.setattr(Losses, "add", add)
        with pytest.raises(Diverged, match=r"^the training loss is nan at update 5$"):
            train(tmp_path / "diverged", data, method("none"), checkpoint_every=0.0, **keys)
    assert checkpoint.load(RunFolder(tmp_path / "diverged").last)["position"]["step"] == 4  # the last good one
    train(tmp_path / "diverged", data, method("none"), **keys)
    assert_same(content(tmp_path / "diverged"), content(tmp_path / "whole"))
    assert_same(lines_of(tmp_path / "diverged"), lines_of(tmp_path / "whole"))

"""The outer loop's own rules: which keys it takes, which weights it keeps, what it counts as training time, when it gives up."""

import json
from time import perf_counter

import numpy as np
import pytest
import torch
from shared_out import made
from streams import learner, method, stopped_and_resumed, stream
from updates import update_of

from metarun.cl.method import ContinualMethod
from metarun.config import ConfigError, RangeError
from metarun.ranks import ALONE
from metarun.rng import derive
from metarun.tracking import RunFolder
from metarun.trainer import tester
from metarun.trainer.detector import BoundaryDetector
from metarun.trainer.losses import Losses
from metarun.trainer.snapshot import Snapshots
from metarun.trainer.state import Diverged, Pruned
from metarun.trainer.trainer import Trainer
from metarun.trainer.update import Update
from metarun.trainer.validation import Validation

CPU = torch.device("cpu")
SGD = {"_target_": "torch.optim.SGD", "lr": 0.01}
NEEDED = {"iterations": 1, "tasks": 1, "optimizer": SGD}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        *((key, 0, "1 or more") for key in ("tasks", "val_tasks", "test_tasks", "log_every")),
        *((key, 0, "1 or more, or null") for key in ("validate_every", "paper_tasks", "threads")),
        ("iterations", -1, "0 or more"),
        ("keep_best", -1, "0 or more"),
        ("clip", 0.0, "a number above 0, or null"),
        ("checkpoint_every", -1.0, "0 seconds or more"),
        *(("switch", value, "a number between 0 and 1, or null") for value in (0.0, 1.0)),
    ],
)
def test_a_value_out_of_range_is_named(key, value, expected):
    with pytest.raises(RangeError) as caught:
        Trainer(0, **{**NEEDED, key: value})
    assert str(caught.value) == f"{key}={value}: expected {expected}"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"detect": 0.0, "switch": 0.5}, "detect=0.0: expected a number above 0, or null"),
        ({"detect": 4.0}, "detect=4.0: expected null where trainer.switch is"),
        ({"order": "random", "switch": 0.5}, "order=random: expected given where stages change by trainer.switch"),
    ],
)
def test_keys_that_exclude_each_other_are_named(keys, message):
    with pytest.raises(RangeError) as caught:
        Trainer(0, **NEEDED, **keys)
    assert str(caught.value) == message


def test_every_key_is_kept():
    keys = {
        "iterations": 0,
        "tasks": 1,
        "optimizer": SGD,
        "scheduler": "cosine",
        "clip": 0.5,
        "clip_value": 2.0,
        "validate_every": 1,
        "val_tasks": 1,
        "test_tasks": 1,
        "paper_tasks": 1,
        "keep_best": 0,
        "report_steps": "last",
        "checkpoint_every": 0.0,
        "log_every": 1,
        "device": "cpu",
        "threads": 1,
        "nonfinite": "skip",
        "deterministic": True,
        "precision": "tf32",
        "compile": "on",
        "reset_optimizer": True,
        "order": "given",
        "switch": 0.5,
        "detect": 0.5,
        "tensorboard": False,
        "figures": False,
    }
    assert vars(Trainer(7, **keys)) == {"seed": 7, **keys}


# What is counted and kept ------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self):
        return self.now


def fit(path, *, stages=None, algorithm=None, of=None, clock=perf_counter, **keys):
    data = stream("domain", stages=1)
    algorithm = algorithm or learner(data)
    settings = {**NEEDED, "validate_every": None, "test_tasks": 2, "val_tasks": 2, "tasks": 4, "tensorboard": False} | keys
    given = algorithm, stages or data.stages(CPU), of or ContinualMethod(), RunFolder(path), "tests"
    outcome = Trainer(0, **settings).fit(*given, clock=clock)
    return outcome, algorithm


def lines_of(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_the_time_of_training_is_that_of_updates_alone(tmp_path, monkeypatch):
    """An update takes 2 s, a validation 100 s, a checkpoint 1000 s, the test 10000 s: 6 updates of 4 tasks take 12 s."""
    clock = Clock()

    def taking(seconds, own):
        def slower(*args, **keys):
            clock.now += seconds
            return own(*args, **keys)

        return slower

    monkeypatch.setattr(Update, "__call__", taking(2, Update.__call__))
    monkeypatch.setattr(tester, "evaluate", taking(100, tester.evaluate))
    monkeypatch.setattr(Snapshots, "write", taking(1000, Snapshots.write))
    monkeypatch.setattr(tester.Tester, "outcome", taking(10000, tester.Tester.outcome))
    outcome, _ = fit(tmp_path, clock=clock, iterations=6, validate_every=2, log_every=2, checkpoint_every=0.0)
    assert outcome.position.seconds == 12
    speeds = {line["step"]: line["time/tasks_per_second"] for line in lines_of(tmp_path) if "train/loss" in line}
    assert speeds == {2: 2.0, 4: 2.0, 6: 2.0}


def test_checkpoints_come_by_the_clock(tmp_path, monkeypatch):
    clock, saved = Clock(), []
    own_update, own_write = Update.__call__, Snapshots.write

    def update(of, episodes):
        clock.now += 1
        return own_update(of, episodes)

    def write(snapshots):
        saved.append(snapshots.state.position.step)
        own_write(snapshots)

    monkeypatch.setattr(Update, "__call__", update)
    monkeypatch.setattr(Snapshots, "write", write)
    fit(tmp_path, clock=clock, iterations=8, checkpoint_every=3.0)
    assert saved == [0, 3, 6, 8]


def validations(monkeypatch, scores):
    """Let validation find these means; other tests find 0."""
    left = list(scores)

    def evaluate(algorithm, source, tasks, *, path=True, steps=None, ensemble=None, on_chunk=None, ranks=ALONE):
        found = left.pop(0) if left and not path and ensemble is None else 0.0
        return np.full((1, tasks), np.nan if found is None else found)

    monkeypatch.setattr(tester, "evaluate", evaluate)


@pytest.mark.parametrize(
    ("keep", "scores", "best"),
    [
        (1, [0.1, 0.4, 0.3], [(0.4, 2)]),
        (1, [0.4, 0.4, 0.3], [(0.4, 1)]),  # of equals the earlier
        (2, [0.1, 0.4, 0.3], [(0.4, 2), (0.3, 3)]),
        (2, [0.3, None, 0.4, 0.3], [(0.4, 3), (0.3, 1)]),  # what is not finite is never the best
        (3, [0.2, 0.1], [(0.2, 1), (0.1, 2)]),
        (0, [0.1, 0.4, 0.3], []),
    ],
)
def test_the_weights_that_were_best_on_validation_are_kept(keep, scores, best, tmp_path, monkeypatch):
    validations(monkeypatch, scores)
    seen = {}
    own = Validation.__call__

    def validate(validation, stage):
        state = validation.state
        seen[state.position.step] = {name: w.detach().clone() for name, w in state.algorithm.state_dict().items()}
        own(validation, stage)

    monkeypatch.setattr(Validation, "__call__", validate)
    outcome, algorithm = fit(tmp_path, iterations=len(scores), validate_every=1, keep_best=keep)
    assert outcome.position.best == best
    if best:  # figures and whoever uses the learner later see the best weights
        for name, w in algorithm.state_dict().items():
            assert torch.equal(w, seen[best[0][1]][name])
        stored = torch.load(RunFolder(tmp_path).best, weights_only=True)
        assert stored["steps"] == [step for _, step in best]
        for (_, step), state in zip(best, stored["states"], strict=True):
            assert all(torch.equal(state[name], w) for name, w in seen[step].items())
    logged = {line["step"]: line["val/accuracy"] for line in lines_of(tmp_path) if "val/accuracy" in line}
    assert logged == dict(enumerate(scores, 1))


def test_on_regression_the_lowest_error_is_best(tmp_path, monkeypatch):
    validations(monkeypatch, [3.0, 1.0, 2.0])
    stages, algorithm = made("maml", "sine")
    outcome, _ = fit(tmp_path, stages=stages[:1], algorithm=algorithm, iterations=3, validate_every=1)
    assert outcome.position.best == [(-1.0, 2)]


def test_the_last_update_is_logged_and_validated_whatever_the_interval(tmp_path):
    fit(tmp_path, iterations=5, validate_every=3, log_every=2)
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines if "train/loss" in line] == [2, 4, 5]
    assert [line["step"] for line in lines if "val/accuracy" in line] == [3, 5]


def test_an_update_is_clipped(tmp_path):
    data = stream("domain", stages=1)
    algorithm = learner(data)
    before = [w.detach().clone() for w in algorithm.parameters()]
    fit(tmp_path, algorithm=algorithm, optimizer={"_target_": "torch.optim.SGD", "lr": 1.0}, clip=0.01)
    moved = torch.cat([(w.detach() - b).flatten() for w, b in zip(algorithm.parameters(), before, strict=True)])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.fixture
def rates(monkeypatch):
    """The outer rate of each update."""
    seen, own = [], Update.__call__

    def update(of, episodes):
        seen.append(of.optimizer.torch.param_groups[0]["lr"])
        return own(of, episodes)

    monkeypatch.setattr(Update, "__call__", update)
    return seen


STEPS = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 2, "gamma": 0.1}
RATES = [
    ("linear", [1.0, 0.75, 0.5, 0.25]),
    ("cosine", [1.0, 0.8535534, 0.5, 0.1464466]),
    (STEPS, [1.0, 1.0, 0.1, 0.1]),
    (None, [1.0, 1.0, 1.0, 1.0]),
]


@pytest.mark.parametrize("stages", [1, 3])
@pytest.mark.parametrize(("schedule", "expected"), RATES)
def test_a_schedule_is_that_of_each_stage(schedule, expected, stages, rates, tmp_path):
    fit(tmp_path, stages=stream("domain", stages=stages).stages(CPU), iterations=4, scheduler=schedule, optimizer=SGD | {"lr": 1.0})
    assert rates == pytest.approx(expected * stages)


def test_a_resumed_run_goes_on_in_the_schedule_of_its_stage(rates, tmp_path, monkeypatch):
    keys = {"iterations": 4, "scheduler": "linear", "optimizer": SGD | {"lr": 1.0}}
    stopped_and_resumed(tmp_path, stream("domain"), "none", (), 5, monkeypatch, **keys)
    assert rates == pytest.approx([1.0, 0.75, 0.5, 0.25] * 3)


def test_a_schedule_of_an_online_stream_falls_once(rates, tmp_path):
    """Whatever boundaries are guessed."""
    keys = {"iterations": 20, "switch": 0.5, "detect": 0.01, "scheduler": "linear", "optimizer": SGD | {"lr": 1.0}}
    outcome, _ = fit(tmp_path, stages=stream("domain", stages=2).stages(CPU), of=method("l2"), **keys)
    assert outcome.boundaries
    assert rates == pytest.approx([1 - i / 40 for i in range(40)])


def test_progress_is_the_share_of_all_updates_made(tmp_path, monkeypatch):
    seen = []
    data = stream("domain", stages=2)
    algorithm = learner(data)
    own = type(algorithm).backward
    monkeypatch.setattr(type(algorithm), "backward", lambda self, episodes: (seen.append(self.progress), own(self, episodes))[1])
    fit(tmp_path, stages=data.stages(CPU), algorithm=algorithm, iterations=2)
    assert seen == [0.0, 0.25, 0.5, 0.75]


def test_a_search_may_stop_a_run_after_a_validation(tmp_path, monkeypatch):
    own = Validation.__call__

    def validate(validation, stage):
        own(validation, stage)
        RunFolder(tmp_path).stop.touch()

    monkeypatch.setattr(Validation, "__call__", validate)
    with pytest.raises(Pruned, match=r"^pruned at update 2 of 6$"):
        fit(tmp_path, iterations=6, validate_every=2)
    assert torch.load(RunFolder(tmp_path).last, weights_only=True)["position"]["step"] == 2


def test_a_learner_that_trains_nothing_has_nothing_to_keep(tmp_path):
    stages, algorithm = made("scratch", "sine")
    with pytest.raises(ConfigError, match=r"^cl: Scratch trains nothing, so there is nothing to keep; choose cl=none$"):
        fit(tmp_path, stages=stages, algorithm=algorithm, of=method("ewc"))
    outcome, _ = fit(tmp_path, stages=stages[:1], algorithm=algorithm, iterations=5)
    assert outcome.position.step == 0


def test_a_loss_or_a_weight_that_is_not_finite_ends_the_run(tmp_path, monkeypatch):
    data = stream("domain", stages=1)
    algorithm = learner(data)
    with torch.no_grad():
        next(algorithm.parameters())[0, 0] = torch.inf
    with pytest.raises(Diverged, match=r"^a weight is not finite at update 0$"):
        fit(tmp_path / "weight", algorithm=algorithm)
    own = Losses.add

    def add(losses, step):
        own(losses, step)
        losses.learner.fill_(torch.nan)

    monkeypatch.setattr(Losses, "add", add)
    with pytest.raises(Diverged, match=r"^the training loss is nan at update 2$"):
        fit(tmp_path / "loss", iterations=5, log_every=2)


# What is logged and where it is drawn from ---------------------------------------------------------------------------------------


def test_a_validation_is_logged_with_its_interval_and_said(tmp_path, monkeypatch, caplog):
    found = [np.array([[0.25, 0.75]]), np.array([[np.nan, 0.5]])]
    asked = []

    def evaluate(algorithm, source, tasks, **how):
        asked.append((source, tasks, how))
        return found[len(asked) - 1] if len(asked) < 3 else np.zeros((1, tasks))

    monkeypatch.setattr(tester, "evaluate", evaluate)
    stages = stream("domain", stages=1).stages(CPU)
    with caplog.at_level("INFO", logger="metarun.trainer.validation"):
        fit(tmp_path, stages=stages, iterations=4, validate_every=2)
    assert [record.getMessage() for record in caplog.records] == [
        "Update 2 of 4: validation accuracy 50.00 ± 49.00 %",
        "Update 4 of 4: validation accuracy not finite on 1 of 2 tasks",
    ]
    lines = [line for line in lines_of(tmp_path) if "val/accuracy" in line]
    assert lines == [
        {"step": 2, "ci95": pytest.approx(1.96 * 0.125**0.5 / 2**0.5), "val/accuracy": 0.5},
        {"step": 4, "ci95": None, "val/accuracy": None},
    ]
    assert asked[0][:2] == (stages[0].val, 2)
    how = asked[0][2]
    assert how.pop("on_chunk")() is None  # a signal waits for the checkpoint after the validation
    assert how == {"path": False, "steps": None, "ranks": ALONE}


class Costly(ContinualMethod):
    """Adds a loss and a penalty that are not finite."""

    sees_tasks = True

    def loss(self, algorithm, episodes):
        return next(algorithm.parameters()).sum() * torch.nan

    def penalty(self, algorithm):
        return torch.tensor(torch.inf)


def test_an_update_that_was_taken_back_adds_nothing_to_a_part_of_the_loss():
    data = stream("domain", stages=1)
    algorithm = learner(data)
    episodes = data.stages(CPU)[0].train.sample(torch.arange(4))
    step = update_of(algorithm, Costly(), tasks=4, nonfinite="skip")(episodes)
    assert [float(value) for value in step] == [0.0, 0.0, 0.0, 0.0]
    step = update_of(algorithm, tasks=4, nonfinite="skip")(episodes)
    assert (step.extra, step.penalty, bool(step.finite)) == (None, None, True)
    assert float(step.loss) > 0


def sines(path, scores, monkeypatch, **keys):
    """Two stages of waves; the tests of the untrained learner on them, and then all others, find ``scores``."""
    asked = []

    def evaluate(algorithm, source, tasks, **how):
        asked.append((source, tasks, how.get("steps")))
        looks = 1 if not how.get("path", True) else len(algorithm.eval_steps(algorithm.steps))
        return np.full((looks, tasks), scores[min(len(asked), len(scores)) - 1])

    monkeypatch.setattr(tester, "evaluate", evaluate)
    stages, algorithm = made("maml", "sine")
    outcome, _ = fit(path, stages=stages, algorithm=algorithm, iterations=1, val_tasks=3, **keys)
    return outcome, stages, asked


@pytest.mark.parametrize(
    ("order", "scores", "taken"),
    [
        ("easy_first", [2.0, 1.0], [1, 0]),
        ("hard_first", [1.0, 2.0], [1, 0]),
        ("easy_first", [np.nan, 5.0], [1, 0]),  # what is not finite counts as worst
        ("hard_first", [5.0, np.nan], [1, 0]),
        ("given", [2.0, 1.0], [0, 1]),
    ],
)
def test_stages_are_ordered_by_the_error_before_training(order, scores, taken, tmp_path, monkeypatch):
    outcome, stages, asked = sines(tmp_path, scores, monkeypatch, order=order)
    assert outcome.position.order == taken
    assert outcome.stages == [stages[number].name for number in taken]
    if order == "given":
        return
    assert asked[:2] == [(stage.val, 3, 1) for stage in stages]  # after as many inner steps as in training
    lines = lines_of(tmp_path)
    told = [None if np.isnan(score) else score for score in scores]
    expected = [{"step": 0, f"order/{stage.name}": score} for stage, score in zip(stages, told, strict=True)]
    assert lines[:2] == expected


def test_a_random_order_is_that_of_the_seed(tmp_path):
    data = stream("domain", stages=5)
    outcome, _ = fit(tmp_path, stages=data.stages(CPU), algorithm=learner(data), order="random")
    expected = np.random.default_rng(derive(0, "order")).permutation([0, 1, 2, 3, 4]).tolist()
    assert outcome.position.order == expected != [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("name", "sign"), [("sine", 1), ("stream", -1)])
def test_a_boundary_is_guessed_from_the_error_after_the_steps_of_training(name, sign, tmp_path, monkeypatch):
    """Of regression the error, of classification the accuracy turned round."""
    if name == "sine":
        stages, algorithm = made("maml", "sine")
        algorithm.steps = 3
    else:
        data = stream("domain", stages=2)
        stages, algorithm = data.stages(CPU), learner(data)
    losses, scores, steps = [], [], []
    own_detect, own_predictions = BoundaryDetector.detect, type(algorithm).predictions

    def detect(self, round_, loss):
        losses.append(loss)
        return own_detect(self, round_, loss)

    def predictions(self, episodes, steps_=None, *, path=True):
        if not path:
            steps.append(steps_)
        made_ = own_predictions(self, episodes, steps_, path=path)
        if not path:
            scores.append(float(self.spec.kind.scores(made_[-1], episodes.query.y).mean()))
        return made_

    monkeypatch.setattr(BoundaryDetector, "detect", detect)
    monkeypatch.setattr(type(algorithm), "predictions", predictions)
    fit(tmp_path, stages=stages, algorithm=algorithm, iterations=3, switch=0.3, detect=5.0)
    assert losses == pytest.approx([sign * score for score in scores[2 : 2 + len(losses)]])
    assert len(losses) == 6
    assert set(steps) == {algorithm.trained_steps}


def test_torch_draws_by_seed_and_update_and_apart_at_a_stages_ends(tmp_path, monkeypatch):
    drawn = {}

    class Drawing(ContinualMethod):
        def on_stage_start(self, algorithm, stage):
            drawn[f"start {stage}"] = float(torch.rand(()))

        def gradient(self, algorithm):
            drawn[len([key for key in drawn if isinstance(key, int)])] = float(torch.rand(()))

        def on_stage_end(self, algorithm, stage):
            drawn[f"end {stage.name}"] = float(torch.rand(()))
            return {"drawn": 0.5}

    data = stream("domain", stages=2)
    fit(tmp_path, stages=data.stages(CPU), algorithm=learner(data), of=Drawing(), iterations=2)

    def draw(step, *names):
        torch.manual_seed(derive(0, "torch", step, *names))
        return float(torch.rand(()))

    names = [stage.name for stage in data.stages(CPU)]
    assert drawn == {
        "start 0": draw(0, "start"),
        **{i: draw(i) for i in range(4)},
        f"end {names[0]}": draw(2, "end"),
        "start 1": draw(2, "start"),
        f"end {names[1]}": draw(4, "end"),
    }
    ends = [line for line in lines_of(tmp_path) if "stage/drawn" in line]
    assert ends == [{"step": 2, "stage/drawn": 0.5}, {"step": 4, "stage/drawn": 0.5}]

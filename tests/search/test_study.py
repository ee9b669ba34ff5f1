"""A study: asked, told, pruned, and taken up again after its worker was killed."""

import json

import pytest

optuna = pytest.importorskip("optuna", reason="metarun[search] is not installed")
pytest.importorskip("sqlalchemy", reason="metarun[search] is not installed")

from metarun.search.space import Dimension  # noqa: E402
from metarun.search.study import Study, curve, error_of  # noqa: E402
from metarun.sweep import Job  # noqa: E402

SPACE = [Dimension("lr", 0.01, 1.0, log=True)]


def study(path, pruning="median"):
    return Study(path / "study", SPACE, 0, "tpe", pruning)


def job(path, number, error=None, status="finished", lines=()):
    """A run that has begun since it was made."""
    made = Job([f"lr={number}"], path / str(number), "s")
    (path / f"{number}/.hydra").mkdir(parents=True)
    (path / f"{number}/.hydra/overrides.yaml").write_text("[]")
    (path / f"{number}/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if status != "running":
        found = {"status": status, "validation": {"mse": {"mean": error}}}
        (path / f"{number}/results.json").write_text(json.dumps(found))
    return made


def test_the_error_is_read_from_results_and_metrics(tmp_path):
    assert error_of({"validation": {"accuracy": {"mean": 0.75}}}) == 0.25
    assert error_of({"validation": {"mse": {"mean": 2.0}}}) == 2.0
    assert error_of({"validation": {"mse": {"mean": None}}}) is None
    assert error_of({"validation": None}) is None
    assert error_of({}) is None
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "train/loss": 1}\n{"step": 2, "val/accuracy": 0.25}\n{"step": 3, "val')
    assert curve(tmp_path / "metrics.jsonl") == {2: 0.75}


def test_as_many_trials_as_asked_for_and_the_best_of_them(tmp_path):
    ours = study(tmp_path)
    number = 0
    while asked := ours.ask(2, 5):
        assert len(asked) <= 2
        for trial, (override,) in asked:
            value = float(override.partition("=")[2])
            assert ours.tell(trial, job(tmp_path, number, error=value, status="finished")) == value
            number += 1
    assert number == 5
    assert ours.best().value == min(t.value for t in ours.trials())
    assert ours.best_overrides() == [f"lr={ours.best().params['lr']:.4g}"]
    assert {path.name for path in ours.draw()} == {"history.png", "slice.png", "timeline.png"}
    ours.close()


def test_a_failed_trial_counts_and_a_diverged_one_is_no_best(tmp_path):
    ours = study(tmp_path)
    for number, status in enumerate(("failed", "diverged")):
        ((trial, _),) = ours.ask(1, 3)
        assert ours.tell(trial, job(tmp_path, number, status=status)) is None
    assert len(ours.trials()) == 2
    assert ours.best() is None
    assert len(ours.ask(5, 3)) == 1


def test_only_pruned_trials_are_counted_as_pruned(tmp_path):
    """Not those that diverged, nor those whose validation is not finite: Optuna knows no other state for them."""
    ours = study(tmp_path)
    for number, (status, error) in enumerate([("finished", 1.0), ("pruned", None), ("diverged", None), ("finished", None)]):
        ((trial, overrides),) = ours.ask(1, 4)
        told = job(tmp_path, number, error=error, status=status)
        line = ours.line(trial, overrides, told, ours.tell(trial, told), 4)
    assert f"{overrides[0]}: not finite on validation; best 1 (trial 0)" in line
    test = job(tmp_path, 9)
    (tmp_path / "9/results.json").write_text(json.dumps({"seed": 7, "test": {"mse": {"mean": 2.0}}}))
    ours.report([test])
    found = json.loads((ours.folder / "search.json").read_text())
    assert (found["trials"], found["pruned"], found["validation_error"]) == (4, 1, 1.0)
    assert found["test"]["mse"] == {"mean": 2.0, "ci95": None, "by_seed": {"7": 2.0}}


def test_a_run_worse_than_the_median_is_asked_to_stop(tmp_path):
    ours = study(tmp_path)
    for number in range(6):
        ((trial, _),) = ours.ask(1, 9)
        done = job(tmp_path, number, error=1.0, lines=[{"step": 10, "val/mse": 1.0}])
        ours.follow(trial, done)
        ours.tell(trial, done)
        assert not done.folder.stop.exists()
    ((trial, _),) = ours.ask(1, 9)
    good = job(tmp_path, 8, status="running", lines=[{"step": 10, "val/mse": 0.5}])
    ours.follow(trial, good)
    assert not good.folder.stop.exists()
    assert "curves.png" in {path.name for path in ours.draw()}
    ((trial, _),) = ours.ask(1, 9)
    bad = job(tmp_path, 9, status="running", lines=[{"step": 10, "val/mse": 2.0}])
    ours.follow(trial, bad)
    assert bad.folder.stop.exists()


def test_a_run_of_several_stages_is_never_asked_to_stop(tmp_path):
    """One that remembers may learn the stage in training more slowly, and that is all that validation sees."""
    ours, row = study(tmp_path), {"step": 0, "stage/a": 2.0, "stage/b": 2.0}
    for number in range(6):
        ((trial, _),) = ours.ask(1, 9)
        done = job(tmp_path, number, error=1.0, lines=[row, {"step": 10, "val/mse": 1.0}])
        ours.follow(trial, done)
        ours.tell(trial, done)
    ((trial, _),) = ours.ask(1, 9)
    bad = job(tmp_path, 9, status="running", lines=[row, {"step": 10, "val/mse": 2.0}])
    ours.follow(trial, bad)
    assert not bad.folder.stop.exists()
    assert curve(bad.folder.metrics_path) == {}


def test_a_killed_workers_trial_is_taken_up_with_its_values_and_a_living_ones_is_left(tmp_path):
    first, second = study(tmp_path), study(tmp_path)
    ((_, overrides),) = first.ask(1, 2)
    ((other, fresh),) = second.ask(1, 2)  # the first worker lives: its trial is not touched
    assert fresh != overrides
    assert second.ask(1, 2) == []  # two are under way
    first._alive.release()  # as the system does for a process that is killed
    ((again, taken_up),) = second.ask(1, 2)
    assert taken_up == overrides
    second.tell(again, job(tmp_path, 0, error=1.0))
    second.tell(other, job(tmp_path, 1, error=2.0))
    assert len(second.trials()) == 2
    assert second.ask(1, 2) == []


def test_proposals_come_first(tmp_path):
    ours = study(tmp_path)
    ours.propose([{"lr": 0.5}, {"lr": 0.25}])
    assert [overrides for _, overrides in ours.ask(3, 3)][:2] == [["lr=0.5"], ["lr=0.25"]]


def test_a_search_from_the_command_line(here):
    """Chosen on validation, tested over other seeds; the same command again has nothing left to do."""
    keys = ("trainer.iterations=20", "trainer.validate_every=10", "trainer.val_tasks=5", "trainer.test_tasks=5")
    plain = ("trainer.figures=false", "trainer.tensorboard=false", "search.trials=2", "search.test_seeds=[7,8]")
    command = ("-m", "+search=inner_lr", *keys, *plain)
    done = here(*command)
    (found,) = here.folder.glob("outputs/search/*/search.json")
    report = json.loads(found.read_text())
    assert set(report["test"]["mse"]["by_seed"]) == {"7", "8"}
    assert f"chosen on validation in 2 trials: {report['chosen'][0]}" in done.stdout
    assert done.stderr.count("error ") == 2
    assert here(*command).stdout.count("skipped: finished") == 2
    warm = ("search.warm_start=outputs", "search.name=warm", "data.amplitude=[1,2]")
    assert f"trial 0 (1 of 2): {report['chosen'][0]}" in here(*command, *warm).stderr

"""Files of a run: whole or not there, cut back on resume, never lost."""

import json
import math
import subprocess

import pytest

from metarun import tracking
from metarun.claim import Busy
from metarun.tracking import Log, RunFolder, flat, source_digest


def test_numbers_that_are_not_finite_become_null(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.write_results({"a": float("nan"), "b": [1.0, float("inf")], "c": {"d": (2, None)}})
    text = folder.results_path.read_text()
    assert json.loads(text, parse_constant=lambda name: 1 / 0) == {"a": None, "b": [1.0, None], "c": {"d": [2, None]}}
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["results.json"]


def test_results_that_cannot_be_read_are_none(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.results() is None
    folder.results_path.write_text('{"half')
    assert folder.results() is None


def test_metrics_are_cut_back_to_the_step_resumed_from(tmp_path):
    folder = RunFolder(tmp_path)
    log = Log(folder, 0, tensorboard=False)
    for step in (100, 200, 300):
        log.scalars(step, {"train/loss": step / 2})
    log.close()
    with folder.metrics_path.open("a") as file:
        file.write('{"step": 400, "tra')
    log = Log(folder, 200, tensorboard=False)
    log.scalars(250, {"val/mse": float("nan")}, ci95=None)
    log.close()
    lines = [json.loads(line) for line in folder.metrics_path.read_text().splitlines()]
    assert lines == [
        {"step": 100, "train/loss": 50.0},
        {"step": 200, "train/loss": 100.0},
        {"step": 250, "ci95": None, "val/mse": None},
    ]


def test_starting_over_moves_and_never_deletes(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / ".hydra").mkdir()
    for content in ("first", "second"):
        folder.results_path.write_text(content)
        folder.last.parent.mkdir()
        folder.last.write_text(content)
        folder.supersede()
    assert (tmp_path / "superseded/1/checkpoints/last.pt").read_text() == "first"
    assert (tmp_path / "superseded/2/results.json").read_text() == "second"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".hydra", "superseded"]


def test_two_processes_do_not_work_on_one_run(tmp_path):
    with RunFolder(tmp_path).claimed():
        second = RunFolder(tmp_path).claimed()
        with pytest.raises(Busy, match="another process is at work on this run"):
            second.__enter__()
    with RunFolder(tmp_path).claimed():
        pass


def test_events_hold_scalars_figures_and_hparams_in_one_file(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from metarun.metric import MSE
    from metarun.report.figures import adaptation_curve, save

    log = Log(RunFolder(tmp_path), 0, tensorboard=True)
    log.scalars(3, {"train/loss": 0.5})
    log.scalars(3, {"test/mse": 0.2})
    log.hparams({"algo": "maml", "algo.inner_lr": 0.01}, {"test/mse": 0.2})
    save(adaptation_curve([{"step": 0, "mean": 1.0, "ci95": 0.1}], MSE), tmp_path / "adaptation.png")
    log.picture("figures/adaptation", tmp_path / "adaptation.png", 3)
    log.close()
    (events,) = tmp_path.glob("events.out.tfevents.*")
    found = EventAccumulator(str(events)).Reload()
    assert found.Scalars("train/loss")[0].value == 0.5
    assert [event.step for event in found.Scalars("test/mse")] == [3]
    assert "_hparams_/session_start_info" in found.Tags()["tensors"] or found.summary_metadata
    assert found.Tags()["images"] == ["figures/adaptation"]


def shown(folder):
    """Scalars by tag as TensorBoard shows a run directory: (step, value)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, round(event.value, 4)) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def start(folder, step, lines, values):
    log = Log(RunFolder(folder), step, tensorboard=True, lines=lines)
    for at, tag, value in values:
        log.scalars(at, {tag: value})
    log.close()


def test_tensorboard_shows_each_event_once_after_kills(tmp_path):
    start(tmp_path, 0, 0, [(0, "stage/a", 0.9), (5, "train/loss", 0.5)])  # killed before any checkpoint
    start(tmp_path, 0, 0, [(0, "stage/a", 0.9), (5, "train/loss", 0.5), (10, "train/loss", 0.4), (10, "stage/a", 0.3)])
    # A checkpoint of update 10 knew of three lines; the fourth is written again.
    start(tmp_path, 10, 3, [(10, "stage/a", 0.3), (15, "train/loss", 0.2)])
    assert shown(tmp_path) == {"stage/a": [(0, 0.9), (10, 0.3)], "train/loss": [(5, 0.5), (10, 0.4), (15, 0.2)]}


def test_tensorboard_shows_starts_in_their_order_whatever_the_clock_says(tmp_path, monkeypatch):
    clock = iter([2_000_000_000.0, 1_000_000_000.0, 1_000_000_000.0])
    for step in (0, 10, 20):
        now = next(clock)
        with monkeypatch.context() as patch:
            patch.setattr("time.time", lambda now=now: now)
            start(tmp_path, step, step // 5, [(step + 5, "train/loss", step + 5), (step + 10, "train/loss", step + 10)])
    assert shown(tmp_path)["train/loss"] == [(step, step) for step in (5, 10, 15, 20, 25, 30)]
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 3


def test_a_value_that_is_not_finite_is_shown_again_as_such(tmp_path):
    start(tmp_path, 0, 0, [(4, "val/mse", float("nan"))])
    start(tmp_path, 4, 1, [])
    ((step, value),) = shown(tmp_path)["val/mse"]
    assert step == 4
    assert math.isnan(value)


def test_the_commit_is_dirty_where_the_code_is_and_not_where_a_page_is(tmp_path, monkeypatch):
    def git(*command):
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", "-C", tmp_path, *who, *command], capture_output=True, check=True, text=True).stdout.strip()

    def now():
        tracking.git_commit.cache_clear()
        return tracking.git_commit()

    monkeypatch.setattr(tracking, "PACKAGE", tmp_path / "metarun")
    code, page = tmp_path / "metarun" / "a.py", tmp_path / "README.md"
    code.parent.mkdir()
    assert now() is None
    git("init", "-q")
    for path in (code, page):
        path.write_text("1")
    git("add", ".")
    git("commit", "-qm", "one")
    commit = git("rev-parse", "--short=12", "HEAD")
    try:
        assert now() == commit
        page.write_text("2")
        (code.parent / "new.txt").write_text("not tracked")
        assert now() == commit
        code.write_text("2")
        assert now() == f"{commit}-dirty"
    finally:
        monkeypatch.undo()
        tracking.git_commit.cache_clear()


def test_flat_keys_and_the_digest_of_the_source(tmp_path, monkeypatch):
    assert flat({"a": {"b": 1, "c": [1, 2]}, "d": None}) == {"a.b": 1, "a.c": "[1, 2]", "d": "None"}
    extra = tmp_path / "mine.py"
    extra.write_text("x = 1")
    shipped = {"algo": {"_target_": "metarun.algo.maml.MAML"}, "seed": 0}
    assert source_digest(shipped) == source_digest({})
    monkeypatch.syspath_prepend(tmp_path)
    mine = {"algo": {"_target_": "mine.Learner"}}
    before = source_digest(mine)
    assert before != source_digest({})
    extra.write_text("x = 2")
    assert source_digest(mine) != before

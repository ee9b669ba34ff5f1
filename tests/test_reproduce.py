"""scripts/reproduce.py on a small cell, through the command line it starts."""

from argparse import Namespace

import pytest
import reproduce

from metarun.report import board, records
from metarun.report.records import Cell, cells

SMALL = (
    *("algo=maml", "data=sine", "model.widths=[8]", "trainer.iterations=30", "trainer.validate_every=null"),
    *("trainer.val_tasks=4", "trainer.test_tasks=8"),
)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """One cell that takes a second, in place of the published ones, and the options that run it."""

    def choose(*more):
        found = {"small": Cell("small", (*SMALL, *more), {"step 1": cells()["maml_sine_5shot"].published["step 1"]})}
        monkeypatch.setattr(reproduce, "cells", lambda: found)
        monkeypatch.setattr(board, "cells", lambda: found)
        return Namespace(
            minutes=5, cores=2, only="*", seeds=3, device="cpu", begin=True, runs=tmp_path / "runs", records=tmp_path / "records"
        )

    (tmp_path / "records").mkdir()
    monkeypatch.setattr(reproduce, "write_board", lambda _: None)
    monkeypatch.setattr(board, "papers", lambda: {"finn2017": "Finn"})
    return choose


@pytest.mark.slow
def test_a_cell_is_run_with_three_seeds_and_recorded(small, capsys):
    options = small()
    reproduce.Runner({}, options).run()
    record = records.read(options.records)["small"]
    assert [run.seed for run in record.runs] == [0, 1, 2]
    assert len({run.figures["step 1"][0] for run in record.runs}) == 3
    assert all(run.updates == 30 and run.test_tasks == 8 for run in record.runs)
    assert "small seed 2: status 0" in capsys.readouterr().out
    again = reproduce.Runner(records.read(options.records), options)
    assert list(reproduce.jobs(again.records, again.work, options)) == []


@pytest.mark.slow
def test_a_run_that_the_minutes_end_is_continued(small):
    options = small("trainer.iterations=1000000", "trainer.checkpoint_every=0.1")
    options.cores, options.minutes = 1, 0.2
    reproduce.Runner({}, options).run()
    first = options.runs / "small" / "0"
    assert (first / "checkpoints" / "last.pt").is_file()
    assert records.read(options.records) == {}
    again = reproduce.Runner({}, options)
    assert min(reproduce.jobs({}, again.work, options), key=lambda job: (not job.begun, job.seconds)).folder == first


def test_a_run_that_does_not_fit_is_not_begun(small, capsys):
    options = small("trainer.iterations=100000000")
    options.begin = False
    reproduce.Runner({}, options).run()
    assert not options.runs.exists()
    assert "3 runs are missing, but none fits" in capsys.readouterr().out


def test_a_cell_that_cannot_be_run_here_is_named_once(small, capsys):
    options = small("data.x=[5,-5]")
    runner = reproduce.Runner({}, options)
    assert list(reproduce.jobs({}, runner.work, options)) == []
    assert list(reproduce.jobs({}, runner.work, options)) == []
    assert capsys.readouterr().out.count("small: skipped") == 1


def test_the_board_is_written_between_the_marks(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before {reproduce.MARKS[0]}old{reproduce.MARKS[1]} after\n")
    reproduce.write_board({}, tmp_path, readme)
    entries = board.board({})
    assert readme.read_text() == f"before {reproduce.MARKS[0]}{len(entries)} not run{reproduce.MARKS[1]} after\n"
    assert (tmp_path / "reproduced.md").read_text() == board.markdown(entries)

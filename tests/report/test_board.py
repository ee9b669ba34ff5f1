"""Records of published cells and the board made of them."""

import json
from pathlib import Path

import pytest
import reproduce
import yaml

from metarun.config import ConfigError, differences
from metarun.report import board, records
from metarun.report.records import Cell, Measured, Record, cells, measure, protocol
from metarun.report.runs import collect

DOCS = Path(__file__).parents[2] / "docs"


def run(path, overrides, *, seed=0, status="finished", test=None, **more):
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra/overrides.yaml").write_text(json.dumps([*overrides, f"seed={seed}"]))
    (path / ".hydra/config.yaml").write_text(yaml.safe_dump({"trainer": {"test_tasks": 600}, "seed": seed}))
    results = {
        "status": status,
        "seed": seed,
        "task": {"kind": "classification"},
        "test": test or {"accuracy": {"mean": 0.5, "ci95": 0.01, "n_tasks": 600}},
        "train": {"iterations": 100, "seconds": 30.0, "resumed_at": [40]},
        "protocol": {"n_test_tasks": 600},
        "tested": {"digest": "d1"},
        "environment": {"device": "cpu", "torch": "2.13.0", "git": "abc"},
        "continual": None,
        **more,
    }
    (path / "results.json").write_text(json.dumps(results))
    return collect([path])[0]


def measured(seed, mean, ci95=0.1, figure="test"):
    return Measured(seed, "finished", {figure: [mean, ci95]}, 100, 600, 60.0, "d", "cpu", "2.13.0", "abc")


def entry(*means, name="protonet_omniglot_5way_1shot"):
    cell = cells()[name]
    record = Record(name, "", "accuracy", {}, [measured(seed, mean) for seed, mean in enumerate(means)])
    return board.Entry(cell, "test", cell.published["test"], record if means else None)


def test_cells_are_papers_rows_and_streams_with_the_commands_that_fill_them():
    row = cells()["maml_sine_5shot"]
    assert row.command == "metarun +paper=maml_sine_5shot"
    assert {look: value.value for look, value in row.published.items()} == {"step 1": 0.67, "step 5": 0.38, "step 10": 0.35}
    stream = cells()["split_mnist_task_ewc"]
    assert stream.command == "metarun +table=split_mnist cl=ewc data.scenario=task"
    assert stream.published["acc"].value == 99.06
    assert "maml_sine_10shot" not in cells()  # the paper has a curve alone


def test_what_a_run_is_recorded_with(tmp_path):
    cell = Cell("c", ("+mine=c",), cells()["split_mnist_task_ewc"].published)
    found = run(tmp_path / "a", cell.overrides, seed=3, continual={"acc": 0.9})
    assert measure(found, cell) == Measured(
        3, "finished", {"acc": [90.0, 1.0]}, 100, 600, 30.0, "d1", "cpu", "2.13.0", "abc", resumed=1
    )


def test_a_figure_that_is_not_finite_and_a_diverged_run_are_recorded_as_such(tmp_path):
    cell = Cell("c", ("+mine=c",), cells()["protonet_omniglot_5way_1shot"].published)
    bad = run(tmp_path / "a", cell.overrides, test={"accuracy": {"mean": None, "ci95": None, "n_tasks": 600}})
    assert measure(bad, cell).figures == {"test": [None, None]}
    diverged = run(tmp_path / "b", cell.overrides, status="diverged", test={})
    assert measure(diverged, cell).figures == {"test": [None, None]}
    assert measure(diverged, cell).status == "diverged"


@pytest.mark.parametrize(
    ("overrides", "more", "message"),
    [
        (["+mine=c"], {"status": "interrupted"}, "the run is interrupted"),
        (["+mine=c", "algo.inner_lr=1"], {}, "departs from the protocol of c: algo.inner_lr=1"),
        (["+mine=c"], {"budget": {"name": "short", "share": 0.1}}, "fewer updates or test tasks"),
        (["+mine=c"], {"protocol": {"n_test_tasks": 100}}, "fewer updates or test tasks"),
    ],
)
def test_only_whole_runs_of_the_protocol_are_recorded(tmp_path, overrides, more, message):
    cell = Cell("c", ("+mine=c",), cells()["protonet_omniglot_5way_1shot"].published)
    with pytest.raises(ConfigError, match=message):
        measure(run(tmp_path / "a", overrides, **more), cell)


def test_a_record_is_read_as_it_was_written_and_a_seed_is_kept_once(tmp_path):
    record = Record("c", "metarun +paper=c", "accuracy", {"algo.inner_lr": 0.1})
    record.add(measured(2, 50.0))
    record.add(measured(0, 51.0))
    record.add(measured(2, 52.0))
    assert [(run.seed, run.figures["test"][0]) for run in record.runs] == [(0, 51.0), (2, 52.0)]
    records.write(record, tmp_path)
    assert records.read(tmp_path) == {"c": record}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"cell": "c"}',
        '{"cell": "c", "command": "", "metric": "mse", "protocol": {}, "runs": [1]}',
        '{"cell": "c", "command": "", "metric": "mae", "protocol": {}, "runs": []}',
    ],
)
def test_a_file_that_is_no_record_is_named(tmp_path, text):
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(ConfigError, match=r"c\.json: not a record"):
        records.read(tmp_path)


def test_a_protocol_is_all_that_changes_a_figure():
    one = {"seed": 1, "algo": {"_target_": "metarun.algo.maml.MAML", "inner_lr": 0.1}, "trainer": {"device": "cpu", "clip": None}}
    other = {"seed": 2, "algo": {"_target_": "metarun.maml.MAML", "inner_lr": 0.2}, "trainer": {"device": "cuda", "clip": None}}
    assert differences(protocol(one), protocol(other)) == {"algo.inner_lr": (0.1, 0.2)}
    assert differences({}, {"trainer.nonfinite": "stop"}) == {}  # what versions without the key did
    assert differences({}, {"trainer.nonfinite": "skip"}) == {"trainer.nonfinite": ("stop", "skip")}
    assert protocol({"model": {"_target_": "torch.nn.Linear"}}) == {"model._target_": "torch.nn.Linear"}


def test_verdicts_of_the_board():
    # Published 98.8, printed to a tenth: the margin is a quarter of 1.2.
    assert entry().verdict == "not run"
    assert entry(98.8, 98.8).verdict == "inconclusive"
    assert entry(98.8, 98.81, 98.79).verdict == "reproduced"
    assert entry(99.5, 99.51, 99.49).verdict == "better than published"
    assert entry(97.0, 97.01, 96.99).verdict == "worse than published"
    assert entry(97.0, 99.0, 98.8).verdict == "inconclusive"
    assert entry(98.8, None, 98.8).verdict == "not finite"


def test_a_line_of_the_board():
    found = dict(zip(board.HEADS, entry(98.7, 98.8, 98.9).cells(), strict=True))
    assert found == {
        "cell": "`protonet_omniglot_5way_1shot`",
        "figure": "",
        "measured": "98.80 ± 0.25",  # 4.303 · 0.1 / √3
        "over tasks": "± 0.10",
        "published": "98.8 ?",  # quoted, not read in the paper
        "margin": "± 0.3",
        "verdict": "reproduced",
        "seeds": "3",
        "seeds wanted": "4",
        "updates": "100",
        "test tasks": "600",
        "minutes": "3",
        "device": "cpu",
        "commit": "abc",
    }
    missing = dict(zip(board.HEADS, entry().cells(), strict=True))
    assert (missing["measured"], missing["verdict"], missing["seeds"]) == ("", "not run", "")


def test_totals_count_every_published_figure():
    entries = board.board({"protonet_omniglot_5way_1shot": entry(98.8, 98.81, 98.79).record})
    assert len(entries) == sum(len(cell.published) for cell in cells().values())
    assert board.totals(entries) == f"1 reproduced, {len(entries) - 1} not run"
    page = board.markdown(entries)
    assert "**1 reproduced" in page
    assert page.count("\n| `") == len(entries)


def test_more_seeds_are_run_while_a_verdict_is_inconclusive():
    cell = cells()["protonet_omniglot_5way_1shot"]
    assert list(reproduce.wanted(cell, None, 10)) == [0, 1, 2]
    assert list(reproduce.wanted(cell, entry(98.8, 98.81, 98.79).record, 10)) == [0, 1, 2]
    wide = entry(98.4, 99.2, 98.8)
    assert wide.seeds_wanted > 10
    assert list(reproduce.wanted(cell, wide.record, 10)) == list(range(10))
    assert list(reproduce.wanted(cell, wide.record, 1000)) == list(range(wide.seeds_wanted))
    off = entry(99.0, 99.0, 99.0, 99.6, 99.0, 99.0, 99.0, 99.0, 99.0)  # more seeds than a mean of 98.8 would take
    assert off.verdict == "inconclusive"
    assert off.seeds_wanted < 9
    assert list(reproduce.wanted(cell, off.record, 12)) == list(range(12))


def test_the_page_and_the_readme_agree_with_the_records():
    entries = board.board(records.read(DOCS / "reproduced"))
    assert (DOCS / "reproduced.md").read_text() == board.markdown(entries), "run python scripts/reproduce.py --board"
    assert f"{reproduce.MARKS[0]}{board.totals(entries)}{reproduce.MARKS[1]}" in (DOCS.parent / "README.md").read_text()


def test_every_record_has_the_protocol_of_today():
    for record in records.read(DOCS / "reproduced").values():
        assert reproduce.stale(record) == {}, record.cell

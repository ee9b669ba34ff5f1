"""What is read of run directories, made up by hand."""

import json

import pytest

from metarun.config import ConfigError
from metarun.report.runs import _written, collect


def write(path, overrides=(), **results):
    (path / ".hydra").mkdir(parents=True)
    if overrides is not None:
        (path / ".hydra" / "overrides.yaml").write_text(json.dumps(list(overrides)))
    if results:
        (path / "results.json").write_text(json.dumps(results))


def test_overrides_by_key(tmp_path):
    write(tmp_path / "run", ["+paper=x", "++algo.a=1", "data.name='a=b'", "hydra.run.dir=out/x", "trainer.device=cpu", "seed=3"])
    (run,) = collect([tmp_path])
    assert run.overrides == {
        "paper": "x",
        "algo.a": "1",
        "data.name": "'a=b'",
        "hydra.run.dir": "out/x",
        "trainer.device": "cpu",
        "seed": "3",
    }
    assert run.changes([]) == ["algo.a=1", "data.name='a=b'"]  # neither where it runs and is written to, nor the seed
    assert run.changes(["algo.a"]) == ["data.name='a=b'"]
    assert run.changes([], {"algo.a": "1", "data.name": "else"}) == ["data.name='a=b'"]
    assert (run.status, run.finished, run.seed) == ("unfinished", False, 3)


@pytest.mark.parametrize("overrides", [None, "", "[unclosed"])
def test_a_run_without_readable_overrides_said_nothing(tmp_path, overrides):
    write(tmp_path / "run", None)
    if overrides is not None:
        (tmp_path / "run" / ".hydra" / "overrides.yaml").write_text(overrides)
    (run,) = collect([tmp_path])
    assert run.overrides == {}


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ((), "short"),
        (("budget.share=0.050",), "short share=0.050"),
        (("budget.operations=123456.7",), "short operations=123456.7"),
        (("budget.operations=1000000",), "short operations=1e+06"),
        (("budget.operations=300000000000.0", "budget.test_tasks=100"), "short operations=3e+11 test_tasks=100"),
        (("budget.operations=-2500000",), "short operations=-2.5e+06"),
        (("budget.share=null",), "short share=null"),
    ],
)
def test_a_budget_in_a_few_words(tmp_path, own, expected):
    write(tmp_path / "run", ["budget=short", *own], budget={"name": "short", "share": 0.01})
    (run,) = collect([tmp_path])
    assert (run.budget, run.full) == (expected, False)


def test_a_budget_that_results_do_not_tell_is_that_of_the_command(tmp_path):
    write(tmp_path / "a", ["budget=smoke"])
    write(tmp_path / "b")
    assert [run.budget for run in collect([tmp_path / "a", tmp_path / "b"])] == ["smoke", "full"]


def test_runs_are_found_at_any_depth_but_not_in_other_runs_remains(tmp_path):
    for name in ("b/2", "a", "b/1/deep", ".trash/x", "a/superseded/1", "a/eval/x", "b/2/checkpoints/x", "b/2/figures/x"):
        write(tmp_path / name)
    assert [str(run.path.relative_to(tmp_path)) for run in collect([tmp_path])] == ["a", "b/1/deep", "b/2"]
    assert len(collect([tmp_path / "a", tmp_path])) == 3  # each once


def test_the_test_tasks_are_those_of_the_run_or_of_its_own_later_test(tmp_path):
    write(tmp_path / "run", tested={"digest": "of training"})
    write(tmp_path / "old", status="finished")
    later = {"0": None, "1": {"overrides": ["data.shots=5"], "tested": {"digest": "others"}}, "2": {"tested": {"digest": "own"}}}
    for name in ("run", "old"):
        for folder, results in later.items():
            (tmp_path / name / "eval" / folder).mkdir(parents=True)
            if results is not None:
                (tmp_path / name / "eval" / folder / "results.json").write_text(json.dumps(results))
    (tmp_path / "old" / "eval" / "0" / "results.json").write_text("{")  # killed while it was written
    old, run = collect([tmp_path])
    assert run.tested == ("of training", tmp_path / "run")
    assert old.tested == ("own", tmp_path / "old" / "eval" / "2")


def test_a_folder_without_runs_is_named(tmp_path):
    with pytest.raises(ConfigError, match=f"^{tmp_path}/none: no such folder$"):
        collect([tmp_path / "none"])
    with pytest.raises(ConfigError, match=f"^{tmp_path}: expected a run directory, or a folder that contains run directories$"):
        collect([tmp_path])


@pytest.mark.parametrize(
    ("value", "expected"), [("relu", "relu"), (0.4, "0.4"), (True, "true"), (None, "null"), (["a", 1], '["a", 1]')]
)
def test_values_are_written_as_one_types_them(value, expected):
    assert _written(value) == expected

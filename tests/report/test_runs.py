"""What is read of run directories, made up by hand."""

import json

import pytest

from metarun.report.runs import collect


def write(path, overrides=(), **results):
    (path / ".hydra").mkdir(parents=True)
    if overrides is not None:
        (path / ".hydra" / "overrides.yaml").write_text(json.dumps(list(overrides)))
    if results:
        (path / "results.json").write_text(json.dumps(results))


def test_overrides_by_key(tmp_path):
    write(tmp_path / "run", ["+paper=x", "++algo.a=1", "data.name='a=b'", "hydra.run.dir=out/x", "trainer.device=cpu", "seed=3"])
    (run,) = collect([tmp_path])
    assert run.said == {
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
    assert run.said == {}


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

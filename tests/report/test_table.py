"""Tables from made-up run directories, worked by hand."""

import pytest
from table_runs import lines, merit, pick, stream, write

from metarun.config import ConfigError
from metarun.report import render
from metarun.report.runs import collect
from metarun.report.table import make


def test_streams_beside_published_figures(tmp_path):
    for seed, (none, ewc) in enumerate([(0.5, 0.6), (0.6, 0.62), (0.7, 0.78)]):
        stream(tmp_path, "none", "domain", seed, none)
        stream(tmp_path, "ewc", "domain", seed, ewc)
    stream(tmp_path, "ewc", "class", 0, 0.2)
    stream(tmp_path, "mine", "task", 0, 0.9)
    stream(tmp_path, "none", "class", 0, 0.9, table="other")
    stream(tmp_path, "agem", "class", 1, 0.9, status="interrupted")
    found = lines("split_mnist", tmp_path)
    none, ewc = pick(found, cl="none", scenario="domain"), pick(found, cl="ewc", scenario="domain")
    assert (none["measured"], none["published"], none["gain over none"]) == ("60.00 ± 24.84", "60.13 ± 3.47 ?", "")
    assert (ewc["measured"], ewc["difference"], ewc["gain over none"]) == ("66.67 ± 24.51", "+3.64", "+6.67 ± 10.34")
    assert (ewc["over tasks"], ewc["seeds"], ewc["test tasks"], ewc["commit"], ewc["device"]) == (
        "± 1.00",
        "3",
        "10,000",
        "abc",
        "cpu",
    )
    assert pick(found, cl="ewc", scenario="class")["measured"] == "20.00"
    assert pick(found, cl="mine", scenario="task")["published"] == ""
    missing, stopped = pick(found, cl="none", scenario="class"), pick(found, cl="agem", scenario="class")
    assert (missing["measured"], missing["state"], missing["published"]) == ("missing", "missing", "19.89 ± 0.04 ?")
    assert stopped["state"] == "1 interrupted"
    assert len(found) == 25  # eight methods in three scenarios, and mine


def test_figures_of_merit_of_streams(tmp_path):
    fixed = {"trainer.iterations": 1500, "algo.test_steps": 3}  # the first is the table's, the second is not
    none, ewc = (
        {"+table": "continual_meta", "data": "sine", "algo": "maml", "cl": cl, "data.stage_by": "phase", **fixed}
        for cl in ("none", "ewc")
    )
    for seed, last in enumerate([1.0, 3.0]):
        merit(tmp_path, none, seed, [[4.0, 4.0], [1.0, 4.0], [3.0, last]])
    merit(tmp_path, ewc, 0, [[4.0, 4.0], [1.0, 4.0], [2.0, 2.0]])
    found = lines("continual_meta", tmp_path)
    assert list(found[0])[:8] == ["data", "algo", "stage_by", "cl", "acc", "bwt", "forgetting", "last stage"]
    assert len(found) == 30  # both grids, fifteen each
    first = pick(found, cl="none", stage_by="phase")
    assert (first["changed"], pick(found, cl="none", algo="protonet")["state"]) == ("algo.test_steps=3", "missing")
    assert (first["acc"], first["bwt"], first["last stage"]) == ("2.500 ± 6.353", "-0.500 ± 0.000", "2.000 ± 12.706")
    assert pick(found, cl="ewc", stage_by="phase")["acc"] == "2.000"
    assert pick(found, cl="joint", stage_by="x")["state"] == "missing"


def test_accuracies_are_in_per_cent_and_online_scores_shown(tmp_path):
    said = {"+table": "continual_meta", "data": "omniglot", "algo": "maml", "cl": "none", "data.train_ways": "null"}
    merit(tmp_path, said, 0, [[0.2, 0.2], [0.5, 0.75]], "accuracy", online={"accuracy": 0.625})
    first = pick(lines("continual_meta", tmp_path), data="omniglot", algo="maml", cl="none")
    assert (first["last stage"], first["online"], "changed" in first) == ("75.00", "62.50", False)


def test_scores_by_length(tmp_path):
    for algo, means in {"oml": (0.9, 0.5), "scratch": (0.5, 0.1)}.items():
        rows = [{"length": n, "mean": mean, "ci95": None} for n, mean in zip((10, 50), means, strict=True)]
        test = {"accuracy": {"mean": means[-1], "n_tasks": 5}, "by_length": rows}
        write(tmp_path / algo, {"+table": "oml", "algo": algo, "seed": 0}, seed=0, test=test)
    found = lines("oml", tmp_path)
    assert [(line["length 10"], line["length 50"]) for line in found] == [("90.00", "50.00"), ("", ""), ("50.00", "10.00")]


def test_mistakes_are_said(tmp_path):
    with pytest.raises(ConfigError, match=r"table=split_mnits: no such table; did you mean split_mnist\?"):
        make("split_mnits", [])
    with pytest.raises(ConfigError, match="expected a run directory"):
        collect([tmp_path])
    with pytest.raises(ConfigError, match="no such folder"):
        collect([tmp_path / "none"])


def test_a_table_without_published_figures_has_no_notes(tmp_path):
    said = {"+table": "orders", "trainer.order": "random", "algo": "maml", "data": "sine"}
    merit(tmp_path, said, 0, [[4.0, 4.0], [1.0, 4.0], [3.0, 1.0]])
    table = make("orders", collect([tmp_path]))
    assert table.notes == []
    assert render.markdown(table).splitlines()[-1].startswith("| `active` | ")  # and no empty line after it
    (tmp_path / "out").mkdir()
    assert render.save(table, tmp_path / "out")[0].read_text() == render.markdown(table) + "\n"

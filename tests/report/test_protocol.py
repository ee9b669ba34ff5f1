"""A row of a paper today, and runs that were made when it said something else."""

import json

import pytest
import yaml
from omegaconf import OmegaConf
from runs import composed

from metarun.report.methods import methods
from metarun.report.protocol import choices, departures, row
from metarun.report.runs import collect
from metarun.report.table import make

NAME = "maml_omniglot_20way_1shot"


@pytest.fixture
def config():
    """The row's configuration as a run directory keeps it."""
    return OmegaConf.to_container(composed(f"+paper={NAME}"))


def write(path, config, said=(), seed=0):
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra" / "overrides.yaml").write_text(json.dumps([f"+paper={NAME}", f"seed={seed}", *said]))
    (path / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    results = {
        "status": "finished",
        "seed": seed,
        "algo": "maml",
        "data": "omniglot",
        "budget": {"name": "full", "share": 1.0},
        "test": {"accuracy": {"mean": 0.958, "ci95": 0.003, "n_tasks": 600}},
        "continual": None,
        "protocol": {"batch_norm": "transductive", "n_test_tasks": 600},
        "train": {"iterations": 60000},
        "environment": {"git": "abc", "device": "cpu"},
    }
    (path / "results.json").write_text(json.dumps(results))


def line_of(folder):
    """The row's line in its table, by column."""
    table = make("maml_omniglot", collect([folder]))
    (line,) = [line for line, found in zip(table.lines, table.rows, strict=True) if found.runs]
    return dict(zip(table.heads, line, strict=True))


def test_a_row_has_its_own_values_and_those_of_the_row_it_builds_on():
    found = row(NAME)
    assert (found["data.ways"], found["algo.inner_steps"]) == (20, 5)  # its own, which replace 5 and 1
    assert (found["model.eps"], found["trainer.optimizer.lr"]) == (0.001, 0.001)  # of maml_omniglot_5way_1shot
    assert "defaults" not in found
    assert row("no_such_row") == {}


def test_a_run_of_todays_row_departs_in_nothing(config):
    assert departures(config, NAME) == {}


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("model.eps", 1e-05, {"model.eps": 1e-05}),
        ("algo.frozen", [], {"algo.frozen": []}),
        ("trainer.scheduler", {"_target_": "x"}, {"trainer.scheduler": {"_target_": "x"}}),
        ("trainer.device", "cuda", {}),  # which changes nothing that is measured
        ("data.root", "elsewhere", {}),
    ],
)
def test_departures_by_hand(config, key, value, expected):
    node, name = key.split(".")
    config[node][name] = value
    assert departures(config, NAME) == expected


def test_a_key_that_a_version_did_not_have_counts_with_what_it_did(config):
    """Before there was `model.eps` it was 1e-5; without `trainer.clip_value` nothing was clipped, as the row says."""
    del config["model"]["eps"], config["trainer"]["clip_value"]
    assert departures(config, NAME) == {"model.eps": 1e-05}


def test_a_run_of_a_former_row_has_another_protocol(tmp_path, config):
    for seed in range(3):
        write(tmp_path / "now" / str(seed), config, seed=seed)
    assert (line_of(tmp_path / "now")["verdict"], "changed" in line_of(tmp_path / "now")) == ("reproduced", False)
    del config["model"]["eps"]
    config["model"]["head_init"] = "xavier"
    for seed in range(3):
        write(tmp_path / "former" / str(seed), config, seed=seed)
    line = line_of(tmp_path / "former")
    assert (line["verdict"], line["changed"]) == ("other protocol", "`model.eps=1e-05 model.head_init=xavier`")


def streamed(path, stage_by, said=()):
    """A run of the table split_mnist, made when the table had another ``stage_by`` or none."""
    write(path, {"data": {"stage_by": stage_by}})
    words = ["+table=split_mnist", "data.scenario=task", "cl=none", *said]
    (path / ".hydra" / "overrides.yaml").write_text(json.dumps(words))
    (run,) = collect([path])
    return run


def test_a_run_of_a_former_table_has_another_protocol(tmp_path):
    assert row("split_mnist", "table") == {"data.stage_by": "random"}
    assert streamed(tmp_path / "now", "random").former == []
    assert streamed(tmp_path / "former", "digit").former == ["data.stage_by=digit"]
    assert streamed(tmp_path / "said", "digit", ["data.stage_by=digit"]).former == []
    rows = [row for row in make("split_mnist", collect([tmp_path / "now", tmp_path / "former"])).rows if row.runs]
    assert [(row.changed, len(row.runs)) for row in rows] == [("", 1), ("data.stage_by=digit", 1)]


def test_an_override_that_repeats_the_table_or_the_row_sets_nothing_apart(tmp_path):
    assert choices("split_mnist", "table") == {"algo": "supervised", "data": "split_mnist"}
    assert choices("snail_omniglot_5way_5shot")["data"] == "omniglot"  # from the row that it builds on
    assert choices("no_such_row") == {}
    again = streamed(tmp_path / "again", "random", ["algo=supervised", "data=split_mnist", "data.stage_by=random"])
    assert again.changes(["data.scenario", "cl"]) == []
    other = streamed(tmp_path / "other", "digit", ["algo=supervised", "data.stage_by=digit", "model.widths=[400,400]"])
    assert other.changes(["data.scenario", "cl"]) == ["data.stage_by=digit", "model.widths=[400,400]"]


def test_a_repeated_value_is_that_of_the_configuration(tmp_path, config):
    """And not its text: `1e-3` is what Hydra reads as 0.001."""
    words = ["trainer.optimizer.lr=1e-3", "algo.frozen=[norms.*]", "algo.inner_lr=0.4"]
    config["algo"]["inner_lr"] = 0.4
    write(tmp_path, config, words)
    (run,) = collect([tmp_path])
    assert run.changes([]) == ["algo.inner_lr=0.4"]
    (tmp_path / ".hydra" / "config.yaml").unlink()
    (run,) = collect([tmp_path])
    assert run.changes([]) == words


def test_what_the_command_set_is_told_once(tmp_path, config):
    config["trainer"] |= {"scheduler": "linear", "iterations": 100}
    config["algo"]["frozen"] = []
    write(tmp_path / "run", config, ["trainer.scheduler=linear", "trainer.iterations=100", "algo.frozen=[]"])
    (run,) = collect([tmp_path])
    assert run.former == []
    assert line_of(tmp_path)["changed"] == "`trainer.scheduler=linear trainer.iterations=100 algo.frozen=[]`"


def test_a_set_node_covers_its_keys_and_no_other_that_begins_alike(tmp_path, config):
    config["trainer"]["optimizer"] |= {"lr": 0.1}
    config["trainer"]["clip_value"] = 10.0
    write(tmp_path / "run", config, ["trainer.optimizer={lr: 0.1}", "trainer.clip=null"])
    (run,) = collect([tmp_path])
    assert run.former == ["trainer.clip_value=10.0"]


def test_runs_of_two_protocols_are_two_methods(tmp_path, config):
    """Their scores are not averaged as if they were seeds of one."""
    write(tmp_path / "now", config, seed=0)
    config["model"]["eps"] = 1e-05
    write(tmp_path / "former", config, seed=1)
    assert {method.name: [run.seed for run in method.runs] for method in methods(collect([tmp_path]))} == {
        f"maml paper={NAME}": [0],
        f"maml eps=1e-05 paper={NAME}": [1],
    }


@pytest.mark.parametrize("text", [None, "", "- a list\n", "a: [unclosed\n"])
def test_a_run_without_a_readable_configuration_is_taken_at_its_word(tmp_path, config, text):
    write(tmp_path / "run", config)
    path = tmp_path / "run" / ".hydra" / "config.yaml"
    path.unlink() if text is None else path.write_text(text)
    (run,) = collect([tmp_path])
    assert (run.former, run.test_tasks, run.full) == ([], None, True)

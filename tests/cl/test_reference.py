"""Intransigence is measured against a run of joint training that suits, and against no other."""

import json
import shutil

import numpy as np
import pytest
from omegaconf import OmegaConf
from runs import run_in

from metarun.config import FORMER, ConfigError

STAGES = ("data.stages=3", "trainer.iterations=20", "trainer.validate_every=null")


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    """A run of joint training up to each stage."""
    path = tmp_path_factory.mktemp("joint") / "run"
    run_in(path, *STAGES, "cl.stages=so_far", cl="joint")
    return path


@pytest.fixture
def copy(joint, tmp_path):
    """The same run, whose files a test may change."""
    return shutil.copytree(joint, tmp_path / "reference")


def change(path, place, value):
    """Another value at a place of results.json, `continual.options.stages`; None: the key is removed."""
    results = json.loads((path / "results.json").read_text())
    *nodes, last = place.split(".")
    node = results
    for name in nodes:
        node = node[name]
    node[last] = value
    if value is None:
        del node[last]
    (path / "results.json").write_text(json.dumps(results))


def refusal(tmp_path, reference, *overrides):
    with pytest.raises(ConfigError) as caught:
        run_in(tmp_path / "refused", *STAGES, f"reference={reference}", *overrides)
    assert not (tmp_path / "refused" / "checkpoints").exists()  # before any training
    start, _, rest = str(caught.value).partition(": ")
    assert (start, rest.count("\n")) == (f"reference={reference}", 0)
    return rest


def test_intransigence_is_what_joint_training_reached_minus_the_score_when_just_learned(joint, tmp_path):
    found = run_in(tmp_path / "run", *STAGES, f"reference={joint}")["continual"]
    R, bound = np.array(found["R"]), np.array(json.loads((joint / "results.json").read_text())["continual"]["R"])
    errors = [R[j + 1][j] - bound[j + 1][j] for j in range(3)]
    assert found["intransigence"] == pytest.approx(np.mean(errors))
    assert abs(found["intransigence"]) > 1e-6
    assert run_in(tmp_path / "other", *STAGES)["continual"]["intransigence"] is None


def test_a_stage_without_a_finite_score_makes_it_null(copy, tmp_path):
    results = json.loads((copy / "results.json").read_text())
    results["continual"]["R"][2][1] = None
    (copy / "results.json").write_text(json.dumps(results))
    run_in(tmp_path / "run", *STAGES, f"reference={copy}")
    assert json.loads((tmp_path / "run/results.json").read_text())["continual"]["intransigence"] is None


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        ("status", "diverged", "expected a finished run of cl=joint cl.stages=so_far, found diverged"),
        ("continual.options.stages", "all", "expected a run of cl=joint cl.stages=so_far, found cl=joint cl.stages=all"),
        ("continual.options.also", {"ewc": {}}, "expected a run of cl=joint cl.stages=so_far, found cl=joint"),
        ("continual", {}, "expected a run of cl=joint cl.stages=so_far, found cl=joint"),
        ("tested", None, "expected a run that records its test tasks, found one of an earlier version; run it again"),
        ("tested.digest", "0" * 32, "expected the test tasks of this run (seed 0), found those of seed 0"),
        (
            "continual.stages",
            ["phase 1.05-2.09", "phase 0.00-1.05", "phase 2.09-3.14"],
            "expected the stages in the order phase 0.00-1.05; phase 1.05-2.09; phase 2.09-3.14; found phase 1.05-2.09; phase 0",
        ),
    ],
)
def test_results_that_do_not_suit_are_refused(copy, tmp_path, place, value, expected):
    change(copy, place, value)
    assert refusal(tmp_path, copy).startswith(expected)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["data.stages=2"], "expected data.stages=2, as in this run, found 3"),
        (["data.stage_by=amplitude"], "expected data.stage_by=amplitude, as in this run, found phase"),
        (["data.shots=5"], "expected data.shots=5, as in this run, found 10"),
        (["algo.inner_lr=0.5"], "expected algo.inner_lr=0.5, as in this run, found 0.01"),
        (["model.widths=[9]"], "expected model.widths=[9], as in this run, found [8, 8]"),
        (["trainer.iterations=30"], "expected trainer.iterations=30, as in this run, found 20"),
        (["trainer.tasks=5"], "expected trainer.tasks=5, as in this run, found 25"),
        (["trainer.test_tasks=19"], "expected trainer.test_tasks=19, as in this run, found 20"),
        (["seed=3"], "expected the test tasks of this run (seed 3), found those of seed 0"),
        (["trainer.order=active"], "expected trainer.order=active, as in this run, found given"),
        (["data.stages=null"], "this run has one stage, so intransigence is not defined; remove reference"),
        (["trainer.switch=0.1"], "this run has no boundaries between stages (trainer.switch)"),
    ],
)
def test_a_run_that_the_reference_does_not_suit_is_refused(joint, tmp_path, overrides, expected):
    assert refusal(tmp_path, joint, *overrides).startswith(expected)


def test_what_changes_no_figure_may_differ(joint, tmp_path):
    same = ("trainer.log_every=7", "trainer.val_tasks=5", "cl.strength=0.1")
    assert run_in(tmp_path / "run", *STAGES, *same, f"reference={joint}", cl="l2")["continual"]["intransigence"] is not None


def test_a_run_that_is_not_of_joint_training_is_refused(joint, tmp_path):
    run_in(tmp_path / "plain", *STAGES)
    assert refusal(tmp_path, tmp_path / "plain") == "expected a run of cl=joint cl.stages=so_far, found cl=none"
    assert refusal(tmp_path, tmp_path / "nowhere") == "expected a finished run of cl=joint cl.stages=so_far, found none"
    shutil.copytree(joint, tmp_path / "bare", ignore=shutil.ignore_patterns(".hydra"))
    with pytest.raises(ConfigError, match="its configuration cannot be read"):
        run_in(tmp_path / "refused", *STAGES, f"reference={tmp_path / 'bare'}")


def test_a_key_that_a_version_did_not_have_counts_with_what_it_did(copy, tmp_path, monkeypatch):
    path = copy / ".hydra" / "resolved.yaml"
    config = OmegaConf.load(path)
    assert config.data.pop("noise") == 0
    path.write_text(OmegaConf.to_yaml(config))
    assert refusal(tmp_path, copy) == "expected data.noise=0.0, as in this run, found None"
    monkeypatch.setitem(FORMER, "data.noise", 0.0)
    assert run_in(tmp_path / "run", *STAGES, f"reference={copy}")["continual"]["intransigence"] is not None
    assert refusal(tmp_path, copy, "data.noise=0.5") == "expected data.noise=0.5, as in this run, found 0.0"


def test_an_order_that_training_decides_is_compared_at_its_end(joint, tmp_path, caplog):
    keys = (*STAGES, "trainer.order=active")
    run_in(tmp_path / "joint", *keys, "cl.stages=so_far", cl="joint")
    results = json.loads((tmp_path / "joint/results.json").read_text())
    results["continual"]["stages"] = results["continual"]["stages"][::-1]
    (tmp_path / "joint/results.json").write_text(json.dumps(results))
    found = run_in(tmp_path / "run", *keys, f"reference={tmp_path / 'joint'}")
    assert found["continual"]["intransigence"] is None
    assert "took the stages in another order, so intransigence is not measured" in caplog.text

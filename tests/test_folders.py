"""A run directory belongs to one configuration and to one process, and names stay inside the output folder."""

import pytest
from runs import results

from metarun.claim import Busy
from metarun.config import changed_keys
from metarun.tracking import RunFolder

SHORT = (
    *("trainer.iterations=6", "trainer.validate_every=3", "trainer.val_tasks=4", "trainer.test_tasks=6", "model.widths=[4]"),
    *("trainer.figures=false", "trainer.tensorboard=false", "trainer.threads=1", "trainer.device=cpu"),
)
OTHERS = {
    "another algorithm": (["algo=fomaml"], "algo.first_order is False there, and True here"),
    "another rate": (["algo.inner_lr=0.5"], "algo.inner_lr is 0.01 there, and 0.5 here"),
    "other data": (["data.amplitude=[1,2]"], "data.amplitude is [0.1, 5.0] there, and [1, 2] here"),
    "another length": (["trainer.iterations=7"], "trainer.iterations is 6 there, and 7 here"),
    "another seed": (["seed=3"], "seed is 0 there, and 3 here"),
    "two differences": (["seed=3", "trainer.tasks=2"], "trainer.tasks is 25 there, and 2 here (keys that differ: 2)"),
}


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def run(here):
    """A finished run in a folder of the user's own."""
    here("hydra.run.dir=run", *SHORT)
    return here.folder / "run"


@pytest.mark.parametrize("what", OTHERS)
def test_another_command_in_a_run_s_folder_is_refused_and_changes_nothing(here, run, what):
    overrides, said = OTHERS[what]
    before = content(run)
    done = here("hydra.run.dir=run", *SHORT, *overrides, status=2)
    assert f"metarun: run: holds a run of another configuration: {said}" in done.stderr
    assert done.stderr.count("\n") == 1
    assert content(run) == before


def test_an_unfinished_run_is_not_continued_by_another_command(here, run):
    (run / "results.json").unlink()
    done = here("hydra.run.dir=run", *SHORT, "algo.inner_lr=0.5", status=2)
    assert "algo.inner_lr is 0.01 there" in done.stderr


def test_the_same_run_on_another_machine_or_started_over_is_no_other_configuration(here, run):
    assert "Already finished" in here("hydra.run.dir=run", *SHORT, "trainer.log_every=2", "trainer.checkpoint_every=1").stdout
    here("hydra.run.dir=run", *SHORT, "seed=3", "restart=true")
    assert results(run)["seed"] == 3
    assert results(run / "superseded/1")["seed"] == 0


def test_two_jobs_of_a_sweep_do_not_share_a_folder(here):
    sweep = ["-m", "hydra.sweep.dir=sweep", "hydra.sweep.subdir=same"]
    here(*sweep, "seed=1", *SHORT)
    done = here(*sweep, "seed=2", *SHORT, status=2)
    assert "sweep/same: holds a run of another configuration: seed is 1 there, and 2 here" in done.stderr
    assert results(here.folder / "sweep/same")["seed"] == 1


def test_restart_beside_a_running_process_takes_nothing_away(here, run):
    before = results(run)
    with RunFolder(run).claimed():
        done = here("hydra.run.dir=run", *SHORT, "restart=true", status=2)
        assert "another process is at work on this run" in done.stderr
        with pytest.raises(Busy), RunFolder(run).claimed():
            pass
    assert results(run) == before
    assert not (run / "superseded").exists()


@pytest.mark.parametrize(
    "text", ["seed: '/../../../../pwned/x'", "seed: ../x", "seed: 1.5", "seed: true", "defaults:\n  - override /data: ../../pwned"]
)
def test_a_configuration_from_elsewhere_names_no_folder_outside(here, text):
    theirs = here.folder / "theirs" / "paper"
    theirs.mkdir(parents=True)
    (theirs / "x.yaml").write_text(f"# @package _global_\n{text}\n")
    before = content(here.folder.parent)
    done = here("--config-dir", "theirs", "+paper=x", status=2)
    assert done.stderr.count("\n") == 1
    assert content(here.folder.parent) == before


@pytest.mark.parametrize("name", ["../../pwn", "/pwn", "a/b", "..", ".hidden"])
def test_a_study_s_name_is_no_path(here, name):
    done = here("-m", "+search=inner_lr", f"search.name='{name}'", *SHORT, status=2)
    assert f"search.name={name}: expected letters, digits" in done.stderr


def test_keys_that_came_later_count_with_what_was_done_before():
    new = {"seed": 0, "trainer": {"nonfinite": "stop", "device": "cuda"}, "algo": {"_target_": "metarun.algo.maml.MAML"}}
    old = {"seed": 0, "trainer": {"device": "cpu"}, "algo": {"_target_": "metarun.maml.MAML"}}
    assert changed_keys(old, new) == {}
    assert changed_keys(old, {**new, "trainer": {"nonfinite": "skip"}}) == {"trainer.nonfinite": ("stop", "skip")}
    assert changed_keys(old, {**new, "seed": 1}) == {"seed": (0, 1)}
    assert changed_keys(old, {**new, "algo": {"_target_": "metarun.algo.maml.FOMAML"}}) == {"algo._target_": ("MAML", "FOMAML")}

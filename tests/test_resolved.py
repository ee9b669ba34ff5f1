"""The configuration that is kept is the one that ran, and what reads a run's configuration reads that one."""

import pytest
import yaml
from omegaconf import OmegaConf
from runs import results

import metarun
from metarun.tracking import RunFolder

SHORT = ("trainer.figures=false", "trainer.tensorboard=false", "trainer.device=cpu", "trainer.threads=1", "model.widths=[4]")


def kept(path):
    return yaml.safe_load((path / ".hydra/resolved.yaml").read_text())


def test_default_stages_are_those_that_were_trained(here):
    here("cl=l2", "trainer.iterations=2", "trainer.test_tasks=3", "trainer.val_tasks=2", "hydra.run.dir=run", *SHORT)
    composed = OmegaConf.load(here.folder / "run/.hydra/config.yaml")
    assert composed.data.stages is None
    expected = OmegaConf.to_container(composed, resolve=True)
    expected["data"]["stages"] = 4
    assert kept(here.folder / "run") == expected
    assert len(results(here.folder / "run")["continual"]["stages"]) == 4
    assert metarun.load(here.folder / "run").config.data.stages == 4


def test_a_budgets_cuts_are_those_that_were_made(here):
    keys = ("budget=short", "budget.test_tasks=3", "trainer.iterations=50", *SHORT)
    here(*keys, "hydra.run.dir=run")
    found, resolved = results(here.folder / "run"), kept(here.folder / "run")
    assert found["train"]["iterations"] == resolved["trainer"]["iterations"] == 5
    assert found["budget"] == {"name": "short", "share": 0.1}
    assert found["protocol"]["n_test_tasks"] == resolved["trainer"]["test_tasks"] == resolved["trainer"]["val_tasks"] == 3
    assert {key: resolved["budget"][key] for key in ("share", "operations", "test_tasks")} == {
        "share": 1.0,
        "operations": None,
        "test_tasks": None,
    }
    assert metarun.load(here.folder / "run").config.trainer.iterations == 5
    said = here("eval", "run", "trainer.val_tasks=3").stdout
    assert "; the same" in said


def test_interpolations_are_resolved(here):
    """Whoever reads it needs none of metarun's resolvers."""
    keys = ("data.train_shots=${data.shots}", "data.shots=3", "trainer.iterations=1", "trainer.test_tasks=3", "hydra.run.dir=run")
    here(*keys, *SHORT)
    assert kept(here.folder / "run")["data"]["train_shots"] == 3


def test_a_run_from_before_is_read_as_composed(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/config.yaml").write_text("seed: 1\n")
    assert RunFolder(tmp_path).configuration() == {"seed": 1}
    RunFolder(tmp_path).write_configuration(OmegaConf.create({"seed": 2}))
    assert RunFolder(tmp_path).configuration() == {"seed": 2}
    with pytest.raises(OSError, match=r"config\.yaml"):
        RunFolder(tmp_path / "nowhere").configuration()


def test_the_name_of_a_run_is_that_of_what_was_composed(here):
    """The cuts and the default stages are not in its digest: the same command finds it."""
    keys = ("cl=l2", "budget=smoke", "trainer.iterations=2000", "trainer.val_tasks=2", *SHORT)
    here(*keys)
    assert "Already finished" in here(*keys).stdout

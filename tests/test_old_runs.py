"""A run of the first version, kept as it was: it loads, is tested and reported, is shown by its command, and goes on."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from runs import composed, results, run_in, weights

import metarun
from metarun import choices
from metarun.config import LATER
from metarun.report import page
from metarun.report.runs import collect
from metarun.use import evaluate

RUNS = Path(__file__).parent / "fixtures" / "run_v1"
SAID = [
    *("model.widths=[8,8]", "trainer.iterations=60", "trainer.validate_every=20", "trainer.val_tasks=10", "trainer.test_tasks=20"),
    *("trainer.log_every=10", "trainer.figures=false", "trainer.tensorboard=false", "trainer.device=cpu", "trainer.threads=1"),
    "trainer.report_steps=last",  # what that version did
]


@pytest.fixture
def old(tmp_path):
    """A copy of the fixture's runs."""
    return Path(shutil.copytree(RUNS, tmp_path / "outputs"))


def finished(old):
    (path,) = (old / "maml-sine").iterdir()
    return path, results(path)


def test_its_command_finds_it(old):
    """New keys, at the values that are as before, have not changed the folder's name."""
    config = composed(*SAID, hydra_part=True)
    assert choices.run_name(_root_=config) == str(finished(old)[0].relative_to(old))


@pytest.mark.parametrize(("node", "key"), [(node, key) for node, keys in LATER.items() for key in keys])
def test_a_key_that_came_later_leaves_the_folders_name(node, key):
    said = ["algo=metalearner", "data=omniglot", "cl=si", "+cl@cl.also.si=si", "trainer.report_steps=last"]
    now = composed(*said, hydra_part=True)
    before, changed = now.copy(), now.copy()
    *path, last = f"{node}.{key}".split(".")
    for config in (before, changed):
        OmegaConf.set_struct(config, False)
    del OmegaConf.select(before, ".".join(path))[last]
    OmegaConf.select(changed, ".".join(path))[last] = "else"
    assert choices.run_name(_root_=now) == choices.run_name(_root_=before)
    assert choices.run_name(_root_=now) != choices.run_name(_root_=changed)


def test_it_is_shown_by_its_command(here, old):
    done = here(*SAID)
    assert "Already finished" in done.stdout
    assert "made by other code" in done.stdout
    assert f"{finished(old)[1]['test']['mse']['mean']:.3f}" in done.stdout


def test_it_loads_and_predicts(old):
    learner = metarun.load(finished(old)[0])
    x = np.linspace(-2, 2, 10)
    assert np.isfinite(learner.fit_predict(x, np.sin(x), x)).all()


def test_it_is_tested_once_more_to_the_same_figures(old):
    path, results = finished(old)
    said = evaluate(path, ["trainer.test_tasks=20"])
    (found,) = path.glob("eval/*/results.json")
    assert json.loads(found.read_text())["test"]["mse"]["mean"] == pytest.approx(results["test"]["mse"]["mean"], rel=1e-5)
    assert "worse" in said or "The run itself" in said


def test_it_is_reported(old):
    found = collect([old])
    assert sorted(run.status for run in found) == ["finished", "interrupted"]
    (run,) = (run for run in found if run.finished)
    assert run.task_scores.shape == (20,)
    assert len(run.metrics) == 10
    assert "maml" in page.page(found)


def test_an_unfinished_one_goes_on_to_the_same_end(old):
    with pytest.raises(metarun.config.ConfigError, match="the code has changed since this unfinished run began"):
        run_in(old / "unfinished", *SAID)
    found = run_in(old / "unfinished", *SAID, "any_code=true")
    path, results = finished(old)
    assert found["train"]["resumed_at"] == [26]
    assert found["test"]["mse"]["mean"] == pytest.approx(results["test"]["mse"]["mean"], rel=1e-4)
    for name, value in weights(path).items():
        assert torch.allclose(weights(old / "unfinished")[name], value, rtol=1e-4, atol=1e-6), name
    assert len((old / "unfinished/metrics.jsonl").read_text().splitlines()) == 10

"""Learners of finished runs: tested otherwise, and given tasks of one's own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import results, trained

import metarun
from metarun.config import ConfigError
from metarun.data.folder import Folder
from metarun.tracking import RunFolder
from metarun.use import evaluate

ROOTS = [root for root in os.environ.get("METARUN_DATA", "").split(os.pathsep) if root]
SHORT = (
    "trainer.test_tasks=30",
    "trainer.val_tasks=10",
    "trainer.figures=false",
    "trainer.tensorboard=false",
    "trainer.device=cpu",
)


def run_of(path, algo, data, *overrides):
    trained(path, f"algo={algo}", f"data={data}", *overrides, *SHORT)
    return path


@pytest.fixture(scope="module")
def sine(tmp_path_factory):
    return run_of(tmp_path_factory.mktemp("sine"), "maml", "sine", "trainer.iterations=400", "algo.test_steps=3")


def shades(path, size, mode):
    """Classes told apart by their grey."""
    random = np.random.default_rng(0)
    for label in range(12):
        (path / str(label)).mkdir(parents=True)
        for i in range(6):
            pixels = random.integers(0, 12, (size, size, 3)) + 20 * label
            Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(path / str(label) / f"{i}.png")
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("images")
    size = ("data.size=16", "data.channels=1", "data.ways=2", "data.queries=3", "data.split=[0.5,0.25,0.25]")
    small = ("model.filters=4", "trainer.iterations=30", "trainer.tasks=2")
    return run_of(path / "run", "protonet", "folder", f"data.path={shades(path / 'grey', 16, 'L')}", *size, *small)


def test_a_test_as_the_run_made_it_gives_the_same_scores(sine, tmp_path):
    said = evaluate(sine, [])
    assert said == evaluate(sine, [])
    folder = said.splitlines()[-1]
    with np.load(f"{folder}/test.npz") as again, np.load(sine / "test.npz") as own:
        np.testing.assert_array_equal(again["scores"], own["scores"])
    found = results(Path(folder))
    assert found["drop"] == 0.0
    assert "; the same" in said


@pytest.mark.parametrize(("algo", "cl"), [("maml", "[ewc,replay]"), ("maml", "heads"), ("maml", "progressive")])
def test_streams_are_tested_as_they_were_in_the_order_taken(tmp_path, algo, cl):
    stream = ("data.stages=3", "data.stage_by=phase", "trainer.order=random", "seed=1", "trainer.iterations=20")
    run = run_of(tmp_path, algo, "sine", f"cl={cl}", *stream)
    order = results(run)["continual"]["stages"]
    assert order != sorted(order)
    folder = evaluate(run, []).splitlines()[-1]
    with np.load(f"{folder}/test.npz") as again, np.load(run / "test.npz") as own:
        assert again["stages"].tolist() == own["stages"].tolist() == order
        np.testing.assert_array_equal(again["scores"], own["scores"])
    assert " by " in evaluate(run, ["data.stages=2"])  # what belongs to a stage has no place there
    x = np.linspace(-4, 4, 10)
    assert np.isfinite(metarun.load(run).fit_predict(x[:, None], np.sin(x), x[:, None])).all()


def test_other_steps_shots_and_tasks(sine):
    folder = evaluate(sine, ["data.shots=5", "algo.test_steps=1", "trainer.test_tasks=7"]).splitlines()[-1]
    found = results(Path(folder))
    assert (found["protocol"]["shots"], found["protocol"]["n_test_tasks"], found["test"]["mse"]["n_tasks"]) == (5, 7, 7)
    assert [row["step"] for row in found["test"]["by_step"]] == [0, 1]
    assert found["overrides"] == ["data.shots=5", "algo.test_steps=1", "trainer.test_tasks=7"]
    assert results(sine)["protocol"]["shots"] == 10  # the run is as it was


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["algo.inner_lrr=1"], "algo.inner_lrr: no such key; did you mean inner_lr?"),
        (["algo=reptile"], "algo: a finished run keeps its own"),
        (["algo.batch_norm=running"], "has no running statistics"),
        (["data.shots=0"], "data.shots=0: expected 1 or more"),
    ],
)
def test_mistakes_are_one_line(sine, overrides, line):
    with pytest.raises(ConfigError) as caught:
        evaluate(sine, overrides)
    assert line in str(caught.value)


def test_other_tasks_are_of_the_same_kind(images):
    with pytest.raises(ConfigError, match="the run learned classification, and these tasks are regression"):
        evaluate(images, ["data=sine"])


def test_only_finished_runs(tmp_path):
    with pytest.raises(ConfigError, match="expected the directory of a finished run"):
        metarun.load(tmp_path)


def test_curves_are_fitted(sine):
    learner = metarun.load(sine)
    x = np.linspace(-4, 4, 10)
    found = learner.fit_predict(x, np.sin(x), x)
    assert found.shape == (10,)
    flat = learner.fit_predict(x[:, None], np.zeros((10, 1)), x[:, None])
    assert flat.shape == (10, 1)
    assert np.abs(found - flat[:, 0]).max() > 0.01  # it has looked at the support set
    np.testing.assert_array_equal(found, learner.fit_predict(x, np.sin(x), x))
    with pytest.raises(ConfigError, match="support_y: expected 10, one for each row of support_x"):
        learner.fit_predict(x, np.zeros(9), x)
    with pytest.raises(ConfigError, match=r"x: expected \(n, 1\), found \(3, 2\)"):
        learner.fit_predict(x, np.zeros(10), np.zeros((3, 2)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(sine, images, bad):
    x = np.linspace(-4, 4, 10)
    spoiled = np.where(np.arange(10) == 3, bad, x)
    curve, classifier = metarun.load(sine), metarun.load(images)
    pictures = np.linspace(0, 1, 4 * 256).reshape(4, 16, 16)
    holes = np.where(np.arange(4 * 256).reshape(4, 16, 16) < 2, bad, pictures)
    for learner, support, labels, queries, line in (
        (curve, spoiled, x, x, "support_x: expected finite numbers, found 1 of 10 that are NaN or infinite"),
        (curve, x, spoiled, x, "support_y: expected finite numbers, found 1 of 10 that are NaN or infinite"),
        (curve, x, x, spoiled, "x: expected finite numbers, found 1 of 10 that are NaN or infinite"),
        (classifier, holes, [0, 0, 1, 1], pictures, "support_x: expected finite numbers, found 2 of 1024 that are NaN or infinite"),
        (classifier, pictures, [0, 0, 1, 1], holes, "x: expected finite numbers, found 2 of 1024 that are NaN or infinite"),
        (
            classifier,
            pictures,
            [0, 0, 1, bad],
            pictures,
            "support_y: expected finite numbers, found 1 of 4 that are NaN or infinite",
        ),
    ):
        with pytest.raises(ConfigError) as caught:
            learner.fit_predict(support, labels, queries)
        assert str(caught.value) == line


def test_a_prediction_that_is_not_finite_is_no_answer(sine, images):
    x = np.linspace(-4, 4, 10)
    with pytest.raises(ConfigError, match=r"^10 of 10 predictions are not finite: the learner diverged on this support set"):
        metarun.load(sine).fit_predict(x, 1e30 * x, x)
    learner = metarun.load(images)
    learner.states = [{name: torch.full_like(w, torch.nan) for name, w in state.items()} for state in learner.states]
    pictures = np.linspace(0, 1, 4 * 256).reshape(4, 16, 16)
    with pytest.raises(ConfigError, match=r"^4 of 4 predictions are not finite"):
        learner.fit_predict(pictures, [0, 0, 1, 1], pictures)


def test_images_are_classified_by_labels_of_any_kind(images):
    learner = metarun.load(images)
    support = np.full((6, 16, 16), 40, np.uint8)
    support[::2] = 220
    labels = np.array(["white", "black"] * 3)
    queries = np.stack([np.full((16, 16), value, np.uint8) for value in (30, 230, 210)])
    assert learner.fit_predict(support, labels, queries).tolist() == ["black", "white", "white"]
    colour = np.repeat(np.kron(queries / 255, np.ones((2, 2)))[:, None], 3, 1)  # larger, in colour, between 0 and 1
    assert learner.fit_predict(support, labels, colour).tolist() == ["black", "white", "white"]
    three = np.array([7, 5, 9, 5, 9, 5])  # as many classes as there are, and not evenly
    assert set(learner.fit_predict(support, three, queries)) <= {5, 7, 9}


def test_standardised_images_are_so_wherever_a_learner_is_used(images, tmp_path):
    config = RunFolder(images).configuration()
    size = [f"data.{key}={config.data[key]}" for key in ("path", "size", "channels", "ways", "queries", "split")]
    small = ("model.filters=4", "trainer.iterations=5", "trainer.tasks=2", "model.standardise=[[0.4],[0.2]]")
    path = run_of(tmp_path / "run", "protonet", "folder", *size, *small)
    said = evaluate(path, [])
    with np.load(f"{said.splitlines()[-1]}/test.npz") as again, np.load(path / "test.npz") as own:
        np.testing.assert_array_equal(again["scores"], own["scores"])

    learner, seen = metarun.load(path), []
    network = learner.algorithm.network
    network.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    random = np.random.default_rng(0)
    support, queries = (random.integers(0, 256, (n, 16, 16)).astype(np.uint8) for n in (4, 3))
    learner.fit_predict(support, [0, 0, 1, 1], queries)
    torch.testing.assert_close(seen[0][0, :, 0], torch.tensor(support) / 255)  # the network is given images from 0 to 1
    by_itself = network(network.weights(), seen[0])
    network.standardise = None
    torch.testing.assert_close(by_itself, network(network.weights(), (seen[0] - 0.4) / 0.2))


def test_other_images_are_brought_to_the_runs_shape(images, tmp_path):
    path = shades(tmp_path / "colour", 24, "RGB")
    folder = evaluate(images, ["data=folder", f"data.path={path}", "data.split=[0.5,0.25,0.25]", "data.ways=3"]).splitlines()[-1]
    found = results(Path(folder))
    assert (found["task"]["input_shape"], found["protocol"]["ways"], found["protocol"]["queries"]) == ([1, 16, 16], 3, 3)
    assert found["drop"] == pytest.approx(results(images)["test"]["accuracy"]["mean"] - found["test"]["accuracy"]["mean"])


def recorded(said):
    return results(Path(said.splitlines()[-1]))


def test_a_test_on_training_images_is_refused_unless_allowed(images):
    own = results(images)
    assert (own["tested"]["classes"], own["tested"]["overlap"]["images"]) == (3, 0)
    line = r"data: \d of the 3 test classes \(\d+ of 18 images\) were in the run's training set; .* add overlap=allow"
    with pytest.raises(ConfigError, match=line) as caught:
        evaluate(images, ["data.split_seed=1"])
    said = evaluate(images, ["data.split_seed=1", "overlap=allow"])
    counts = str(caught.value).removeprefix("data: ").partition(";")[0]
    assert f"Not a test on unseen classes: {counts}" in said
    found = recorded(said)["tested"]
    assert found["digest"] != own["tested"]["digest"]
    assert found["train"] == own["tested"]["train"]
    assert counts.startswith(f"{found['overlap']['classes']} of the 3")
    with pytest.raises(ConfigError, match="overlap=yes: expected allow"):
        evaluate(images, ["overlap=yes"])


def test_training_images_are_found_where_results_do_not_record_them(images):
    learner = metarun.load(images)
    by_record = learner.results["tested"]["train"]
    assert {name: [list(run) for run in runs] for name, runs in learner._training_images().items()} == by_record


@pytest.mark.parametrize("fixture", ["sine", "images"])
def test_another_seed_draws_other_test_tasks_of_the_same_split(fixture, request):
    run = request.getfixturevalue(fixture)
    own = results(run)
    found = recorded(evaluate(run, ["seed=7"]))
    assert found["tested"]["digest"] != own["tested"]["digest"]
    assert found["tested"]["train"] == own["tested"]["train"]
    assert found["seed"] == 7
    assert not (found["tested"]["overlap"] or {}).get("images")


@pytest.mark.skipif(not any((Path(root) / "mnist").is_dir() for root in ROOTS), reason="needs mnist")
def test_another_seed_keeps_the_permutations_of_the_run(tmp_path):
    size = ("data.stages=2", "trainer.iterations=150", "trainer.tasks=32", "model=mlp", "model.widths=[100]")
    run = run_of(tmp_path / "run", "supervised", "permuted_mnist", *size, "trainer.test_tasks=200", "seed=3")
    own = results(run)["test"]["accuracy"]["mean"]
    found = recorded(evaluate(run, ["seed=4"]))["test"]["accuracy"]["mean"]
    assert own > 0.5  # with permutations of another seed it would be at chance, 0.1
    assert found == pytest.approx(own, abs=0.06)


def test_what_is_better_is_called_better(sine):
    said = evaluate(sine, ["data.shots=40"])
    found = recorded(said)
    assert found["drop"] < 0
    assert f"; better by {-found['drop']:.4g}" in said


def test_a_head_has_as_many_outputs_as_it_was_trained_with(tmp_path, images):
    data = RunFolder(images).configuration().data.path
    size = ("data.size=16", "data.channels=1", "data.ways=3", "data.queries=3", "data.split=[0.5,0.25,0.25]")
    path = run_of(tmp_path / "run", "maml", "folder", f"data.path={data}", *size, "model.filters=4", "trainer.iterations=2")
    with pytest.raises(ConfigError, match="its weights do not fit this learner; the number of outputs may differ"):
        evaluate(path, ["data.ways=2"])
    pictures = np.zeros((4, 1, 16, 16))
    assert set(metarun.load(path).fit_predict(pictures, [0, 1, 0, 1], pictures)) <= {0, 1}
    with pytest.raises(ConfigError, match="4 classes, but this learner has outputs for 3"):
        metarun.load(path).fit_predict(pictures, [0, 1, 2, 3], pictures)


def test_torch_is_imported_when_a_learner_is_loaded():
    code = "import sys, metarun, metarun.report.page, metarun.report.render, metarun.report.board; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_run_says_when_its_own_test_has_training_images(tmp_path, images, caplog):
    members = Folder.members
    path = RunFolder(images).configuration().data.path
    size = ("data.size=16", "data.channels=1", "data.ways=2", "data.queries=3", "data.split=[0.5,0.25,0.25]")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Folder, "members", lambda data, split: members(data, "train"))
        run_of(tmp_path / "run", "protonet", "folder", f"data.path={path}", *size, "model.filters=4", "trainer.iterations=2")
    assert "Not a test on unseen classes: 6 of the 6 test classes (36 of 36 images)" in caplog.text


def test_python_alone_finds_the_users_choices_and_says_mistakes_in_one_line(sine):
    """In a process of its own, as `metarun.cli` must not have been imported."""
    folder = sine.parent
    (folder / "conf/data").mkdir(parents=True)
    (folder / "conf/data/loud.yaml").write_text("# Loud waves\ndefaults: [sine]\nnoise: 0.5\n")
    code = (
        "import sys\n"
        "from metarun.config import ConfigError\n"
        "from metarun.use import evaluate\n"
        f"evaluate({sine.name!r}, ['data=loud', 'trainer.test_tasks=3'])\n"
        "for override in ('data=lod', 'data.noise=[1', 'data.noise=${nowhere}'):\n"
        "    try:\n"
        f"        evaluate({sine.name!r}, [override])\n"
        "    except ConfigError as error:\n"
        "        print(error)\n"
        "assert 'metarun.cli' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines()[:2] == [
        "data=lod: no such choice; did you mean loud?",
        "data.noise=[1: not an override; write KEY=VALUE, GROUP=CHOICE or +KEY=VALUE",
    ]
    assert len(done.stdout.splitlines()) == 3

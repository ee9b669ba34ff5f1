"""The code in the documentation is run, not believed."""

import json
import re
import shlex
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from runs import composed, results
from small import LINE, PICTURES, conv, images, mlp, regression

from metarun import choices, cli
from metarun.config import CONFIGS
from metarun.model.network import as_network

DOCS = Path(__file__).resolve().parent.parent / "docs"


PAGES = [DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
OF_IMAGES = ("trainer.iterations=60", "trainer.val_tasks=10", "trainer.test_tasks=50", "trainer.figures=false", "model.filters=8")
OF_WAVES = ("trainer.iterations=20", "trainer.val_tasks=10", "trainer.test_tasks=10")
OWN = {"ridge", "arrays", "mine", "freeze", "absolute_sine", "features", "boil", "rwalk"}
"""Choices of a user's own in the examples."""


def commands(page: Path) -> list[list[str]]:
    """The arguments of every indented line that calls `metarun`, without the words that explain it two spaces behind."""
    lines = re.findall(r"^    (?:\.venv/bin/)?metarun\b(.*)$", page.read_text(), re.MULTILINE)
    return [shlex.split(re.split(r"\s{2,}", line.strip())[0]) for line in lines]


def first_values(arguments: list[str]) -> list[str]:
    """Overrides with the first of the values that each sweeps over."""
    parsed = OverridesParser.create().parse_overrides(choices.spread(arguments))
    search = any(override.key_or_group == "search" for override in parsed)
    single = (f"{o.get_key_element()}={next(o.sweep_string_iterator())}" for o in parsed if o.is_discrete_sweep())
    plain = [o.input_line for o in parsed if not o.is_sweep_override() and o.input_line]
    return [*plain, *single] if not search else plain


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_compose(page):
    for arguments in commands(page):
        first, *others = arguments or [""]
        if first == "report":
            names = others[others.index("--table") + 1 :][:1] if "--table" in others else []
            assert all((CONFIGS / "table" / f"{name}.yaml").is_file() for name in names)
            continue
        said = [a for a in (others if first in cli.COMMANDS else arguments) if "=" in a]
        if first == "eval":
            said += ["algo=maml"] + ["data=omniglot"] * (not any(a.startswith("data=") for a in said))
        if not OWN & {word for a in said for word in re.split(r"\W", a)}:
            composed(*first_values(said), hydra_part=True)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tests_and_scripts_that_are_named_are_there(page):
    for name in re.findall(r"`((?:tests|scripts)/[\w/]+\.py)", page.read_text()):
        assert (DOCS.parent / name).is_file(), name


def blocks(page: str) -> dict[str, str]:
    """The code of a page's fenced blocks by the file name behind the fence."""
    return dict(re.findall(r"```\w+ (\S+)\n(.*?)```", (DOCS / page).read_text(), re.DOTALL))


@pytest.fixture
def written(here):
    for name, code in blocks("adding.md").items():
        path = here.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    return here


def save_images(folder):
    """A class is a shade of grey."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(18), 12))
    images = (rng.random((len(labels), 1, 16, 16)) * 100 + 8 * labels[:, None, None, None]).astype(np.uint8)
    np.savez(folder / "images.npz", images=images, labels=labels)


def test_a_data_set_of_ones_own(written):
    save_images(written.folder)
    assert len(blocks("adding.md")["mydata.py"].splitlines()) < 40
    written("algo=protonet", "data=arrays", "data.path=images.npz", "hydra.run.dir=run", *OF_IMAGES)
    accuracy = results(written.folder / "run")["test"]["accuracy"]["mean"]
    assert accuracy > 0.3  # a class is a shade of grey: easier than chance
    assert written("show", "data=arrays", "data.path=images.npz").stdout == "outputs/show/arrays.png\n"
    assert (written.folder / "outputs/show/arrays.png").read_bytes().startswith(b"\x89PNG")
    assert (
        written("data=arrays", "data.path=none.npz", status=2).stderr == "metarun: data.path=none.npz: No such file or directory\n"
    )
    assert "Images and labels in a .npz file" in written("--help").stdout


def lines(name: str) -> int:
    return len(blocks("adding.md")[name].splitlines())


def save_table(folder):
    """A class is a direction in four dimensions; the second feature is a thousand times larger than the others."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(25), 12)
    x = (rng.normal(size=(25, 4))[labels] + 0.2 * rng.normal(size=(len(labels), 4))) * np.array([1, 1000, 1, 1])
    rows = [f"{','.join(f'{v:.5f}' for v in row)},class {label}" for row, label in zip(x, labels, strict=True)]
    (folder / "table.csv").write_text("\n".join(["a,b,c,d,label", *rng.permutation(rows)]))


OF_TABLE = ("data=features", "data.path=table.csv", "trainer.iterations=60", "trainer.val_tasks=10", "trainer.test_tasks=50")


def test_features_of_a_table(written):
    save_table(written.folder)
    assert lines("features.py") < 30
    for algo in ("protonet", "maml", "finetune"):
        written(*OF_TABLE, f"algo={algo}", f"hydra.run.dir={algo}")
        assert results(written.folder / algo)["test"]["accuracy"]["mean"] > 0.4, algo  # chance is 0.2
    assert results(written.folder / "protonet")["test"]["accuracy"]["mean"] > 0.7
    assert written("show", *OF_TABLE[:2]).stdout == "outputs/show/features.png\n"
    assert (written.folder / "outputs/show/features.png").read_bytes().startswith(b"\x89PNG")


def test_stages_of_a_table_and_mistakes_in_it(written):
    save_table(written.folder)
    stages = (*OF_TABLE, "data.ways=2", "data.stages=2", "cl=ewc", "hydra.run.dir=stages")
    written(*stages)
    assert np.shape(results(written.folder / "stages")["continual"]["R"]) == (3, 2)  # the first row before training
    assert "data.ways=9: expected at most the 5 classes" in written(*OF_TABLE, "data.ways=9", status=2).stderr
    (written.folder / "table.csv").write_text("a,label\none,1\n")
    assert re.fullmatch(r"metarun: data.path=table.csv: could not convert .*'one'.*\n", written(*OF_TABLE, status=2).stderr)
    assert written("data=features", "data.path=no.csv", status=2).stderr == "metarun: data.path=no.csv: no.csv not found.\n"


@pytest.mark.parametrize("of", ["data=sine", "data=arrays data.path=images.npz"])
def test_boil_runs(of, written):
    save_images(written.folder)
    assert lines("boil.py") < 30
    short = OF_IMAGES if "arrays" in of else (*OF_WAVES, "trainer.figures=false")
    written("algo=boil", *of.split(), *short, "hydra.run.dir=run")
    assert results(written.folder / "run")["algo"] == "boil"


@pytest.mark.parametrize("model", ["mlp", "conv4", "one's own"])
def test_boil_adapts_the_body_and_leaves_the_head(model, written):
    own = run_path(str(written.folder / "mynet.py"))["Tiny"]
    spec, tasks, network = {
        "mlp": (LINE, regression, mlp),
        "conv4": (PICTURES, images, conv),
        "one's own": (LINE, regression, lambda outputs: as_network(own((1,), outputs, width=8))),
    }[model]
    learner = run_path(str(written.folder / "boil.py"))["BOIL"](spec, network, 0.1).double()
    assert len(learner.network.parts["head"]) == 2
    adapted = learner.adapt(tasks(tasks=1).support).weights
    moved = {name for name, w in learner.network.weights().items() if not torch.equal(adapted[name].view_as(w), w)}
    assert moved == learner.network.parts["body"]


def test_a_method_like_rwalk(written):
    assert lines("rwalk.py") < 50
    scores = {}
    for strength in (0, 1000):
        said = ("data=sine", "data.stages=2", "cl=rwalk", f"cl.strength={strength}")
        written(*said, *OF_WAVES, "trainer.log_every=5", "trainer.figures=false", f"hydra.run.dir={strength}")
        scores[strength] = np.load(written.folder / f"{strength}/test.npz")["scores"]
    found = results(written.folder / "1000")
    assert found["cl"] == "rwalk"
    assert {"strength": 1000, "decay": 0.9, "damping": 0.001}.items() <= found["continual"]["options"].items()
    assert not np.array_equal(scores[0], scores[1000])  # it holds weights
    metrics = [json.loads(line) for line in (written.folder / "1000/metrics.jsonl").read_text().splitlines()]
    penalties = [line["train/penalty"] for line in metrics if "train/penalty" in line]
    assert penalties
    assert max(penalties) > 0


def test_an_algorithm_of_ones_own(written):
    save_images(written.folder)
    assert len(blocks("adding.md")["ridge.py"].splitlines()) < 40
    of_images = ("algo=ridge", "data=arrays", "data.path=images.npz")
    accuracies = {}
    for mode in ("running", "transductive", "support"):
        written(*of_images, f"algo.batch_norm={mode}", *OF_IMAGES, f"hydra.run.dir={mode}")
        found = results(written.folder / mode)
        accuracies[mode] = found["test"]["accuracy"]["mean"]
        assert accuracies[mode] > 0.3  # chance is 0.2
        assert found["protocol"]["batch_norm"] == mode
    assert len(set(accuracies.values())) == 3
    assert "algo.penalty=-1.0: expected a number above 0" in written(*of_images, "algo.penalty=-1", status=2).stderr


def test_a_kind_of_ones_own(written, monkeypatch):
    """It trains, is validated, tested and tested again, learns in stages, and is reported without its code."""
    assert len(blocks("adding.md")["absolute.py"].splitlines()) < 40
    short = (
        "data=absolute_sine",
        "trainer.iterations=60",
        "trainer.validate_every=20",
        "trainer.test_tasks=20",
        "trainer.val_tasks=10",
    )
    for seed in (0, 1):
        said = written(*short, f"seed={seed}", f"hydra.run.dir=runs/{seed}").stdout
    assert "mean absolute error, mean ± 95 % interval over tasks (median)" in said
    found = results(written.folder / "runs/0")
    assert found["metric"]["name"] == "mae"
    assert found["task"]["kind"] == "absolute_error"
    scores = np.load(written.folder / "runs/0/test.npz")["scores"][0, 1]
    assert found["test"]["mae"]["mean"] == pytest.approx(scores.mean())
    assert found["test"]["steps"]["chosen_by"] == "trained"
    before, after = (row["mean"] for row in found["test"]["by_step"][:2])
    assert after < before
    assert found["validation"].keys() == {"mae"}
    monkeypatch.setenv("METARUN_PACKAGES", "absolute")  # code of a run directory is not trusted otherwise
    again = written("eval", "runs/0", "data.shots=20").stdout
    assert "The run itself: mae" in again
    written(*short, "cl=ewc", "data.stages=2", "trainer.report_steps=validation", "hydra.run.dir=runs/stages")
    stream = results(written.folder / "runs/stages")
    assert stream["continual"]["acc"] == pytest.approx(-stream["test"]["mae"]["mean"])  # lower is better

    (written.folder / "absolute.py").unlink()
    written("report", "runs")
    page = (written.folder / "outputs/report/report.html").read_text()
    assert "Curves: mean absolute error" in page
    means = [results(written.folder / f"runs/{n}")["test"]["mae"]["mean"] for n in (0, 1)]
    assert f"{np.mean(means):.3f} ± " in page


def test_a_network_of_ones_own(written):
    written("model=tiny", *OF_WAVES, "trainer.figures=false", "hydra.run.dir=run")
    assert results(written.folder / "run")["model"] == "tiny"


def test_a_continual_method_of_ones_own(written):
    written("data=sine", "cl=freeze", "data.stages=2", *OF_WAVES, "hydra.run.dir=run")
    found = results(written.folder / "run")
    assert found["cl"] == "freeze"
    assert found["continual"]["options"]["weights"] == ["network.layers.0.*"]
    assert {"R.png", "stages.png"} <= {path.name for path in (written.folder / "run/figures").iterdir()}


def test_stages_are_listed_without_training(here):
    out = here("show", "data=sine", "data.stages=2").stdout
    assert out.splitlines() == ["outputs/show/sine-0.png  phase 0.00-1.57", "outputs/show/sine-1.png  phase 1.57-3.14"]
    assert "data=sin: no such choice" in here("show", "data=sin", status=2).stderr
